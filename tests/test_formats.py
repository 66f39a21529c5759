"""What comes in goes out: one test for each row of the table in docs/formats.md, and faults."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features
from profiles import cmyk_profile

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images import jpeg_segments as jpeg
from d2s_cli.images import png_chunks as png
from d2s_cli.images import tiff_directory as tiff
from d2s_cli.images.formats import FORMATS, is_lossless, suffix_for
from d2s_cli.images.masks import read_mask
from d2s_cli.images.pairing import make_plan
from d2s_cli.images.photo import Photo, upright
from d2s_cli.images.reading import read_photo
from d2s_cli.images.writing import (
    Change,
    WriteSettings,
    changed_known_pixels,
    fill_hole,
    write_photo,
)

TABLE = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
HEIGHT, WIDTH = 21, 34
RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'
Test = Callable[..., None]
COVERED: set[str] = set()
UNCHANGED = Change(0, 0, 0.0)


def row(*names: str) -> Callable[[Test], Test]:
    """Marks a test of rows of the table, by their first column."""

    def mark(test: Test) -> Test:
        COVERED.update(names)
        return test

    return mark


def samples(channels: int, dtype: Any = np.uint8, seed: int = 0, size: Any = None) -> np.ndarray:
    """Noise, H x W or H x W x C."""
    rng = np.random.default_rng(seed)
    shape = (*(size or (HEIGHT, WIDTH)), channels)
    found = rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    return found[..., 0] if channels == 1 else found


def smooth(channels: int) -> np.ndarray:
    """A picture that JPEG codes well."""
    small = samples(channels, size=(4, 5)).astype(np.float32)
    large = cv2.resize(small, (WIDTH * 2, HEIGHT * 2), interpolation=cv2.INTER_CUBIC)
    return large.clip(0, 255).astype(np.uint8)


def restored(
    source: Path, name: str | None = None, **options: Any
) -> tuple[Photo, Path, np.ndarray, Change]:
    """Fill a hole with noise and write: the photo, the result, the known pixels, the change."""
    photo = read_photo(source)
    width, height = photo.size
    hole = np.zeros((height, width), bool)
    hole[height // 4 : height // 2, width // 3 : width // 2] = True
    before = photo.samples.copy()
    result = np.where(hole[..., None], samples(3, photo.rgb.dtype, 9, (height, width)), photo.rgb)
    target = source.with_name(name or f"out{source.suffix}")
    write_photo(photo, fill_hole(photo, result, hole), target, WriteSettings(**options))
    assert (photo.samples == before).all()
    assert [p.name for p in target.parent.iterdir() if ".part" in p.name] == []
    change = changed_known_pixels(photo, hole, target)
    known = ~upright(hole, {6: 8, 8: 6}.get(photo.orientation, photo.orientation))
    return photo, target, known, change


def same_known(source: Path, target: Path, known: np.ndarray, mode: str | None = None) -> None:
    """Pillow's word that known samples are the same and the hole is not."""
    with Image.open(source) as file, Image.open(target) as again:
        before = np.asarray(file.convert(mode) if mode else file)
        after = np.asarray(again)
    assert after.dtype == before.dtype
    assert (before[known] == after[known]).all()
    assert (before[~known] != after[~known]).any()


MODES = {"grey": 1, "grey with alpha": 2, "RGB": 3, "RGB with alpha": 4}


@row(*(f"PNG, {mode}, 8-bit" for mode in MODES))
@pytest.mark.parametrize("channels", MODES.values())
def test_png_of_8_bits(tmp_path: Path, channels: int) -> None:
    Image.fromarray(samples(channels)).save(tmp_path / "a.png")
    photo, target, known, change = restored(tmp_path / "a.png")
    assert change == UNCHANGED
    assert photo.notes == []
    same_known(tmp_path / "a.png", target, known)
    if channels in (2, 4):
        assert (np.asarray(Image.open(target))[~known][:, -1] == 255).all()


@row(*(f"PNG, {mode}, 16-bit" for mode in MODES))
@pytest.mark.parametrize("channels", MODES.values())
def test_png_of_16_bits(tmp_path: Path, channels: int) -> None:
    deep = samples(channels, np.uint16)
    with open(tmp_path / "a.png", "wb") as file:
        png.write_deep(deep.reshape(HEIGHT, WIDTH, -1), [], file)
    photo, target, known, change = restored(tmp_path / "a.png")
    assert change == UNCHANGED
    assert photo.notes == []
    before, after = (cv2.imread(str(p), -1) for p in (tmp_path / "a.png", target))
    assert after.dtype == np.uint16
    assert (before[known] == after[known]).all()
    assert len(np.unique(after[~known] % 257)) > 20  # not 8 bits made longer
    assert photo.samples.shape[2] == channels
    if channels in (1, 3):
        expected = deep[..., ::-1] if channels == 3 else deep
        assert (before == expected).all()  # cv2 reads what was meant to be written


@row("PNG, palette")
@pytest.mark.parametrize("transparent", [False, True])
def test_palette_png(tmp_path: Path, transparent: bool) -> None:
    picture = Image.fromarray(samples(3)).quantize(16)
    options = {"transparency": bytes([0, 128] + [255] * 14)} if transparent else {}
    picture.save(tmp_path / "a.png", **options)
    photo, target, known, change = restored(tmp_path / "a.png")
    mode = "RGBA" if transparent else "RGB"
    assert change == UNCHANGED
    assert photo.notes == [f"palette became {mode}; values are the same"]
    same_known(tmp_path / "a.png", target, known, mode)


@row("PNG, grey of 1, 2 or 4 bits")
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_grey(tmp_path: Path, bits: int) -> None:
    header = struct.pack(">IIBBBBB", 16, 8, bits, 0, 0, 0, 0)
    rows = samples(1, size=(8, 16 * bits // 8))
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    chunks = [png.Chunk(b"IHDR", header), png.Chunk(b"IDAT", data), png.Chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(png.SIGNATURE + b"".join(c.to_bytes() for c in chunks))
    photo, target, known, change = restored(tmp_path / "a.png")
    assert change == UNCHANGED
    assert photo.notes == [
        f"{bits}-bit{'' if bits == 1 else ' grey'} became L; values are the same"
    ]
    same_known(tmp_path / "a.png", target, known, "L")


@row("PNG, one transparent colour")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_colour(tmp_path: Path, channels: int, dtype: Any) -> None:
    picture = samples(channels, dtype).reshape(HEIGHT, WIDTH, channels)
    key = picture[0, 0]
    picture[2:4, 5:9] = key
    if dtype == np.uint8:
        flat = Image.fromarray(picture[..., 0] if channels == 1 else picture)
        flat.save(
            tmp_path / "a.png", transparency=tuple(map(int, key)) if channels > 1 else int(key[0])
        )
    else:
        with open(tmp_path / "a.png", "wb") as file:
            png.write_deep(picture, [png.Chunk(b"tRNS", key.astype(">u2").tobytes())], file)
    photo, target, known, change = restored(tmp_path / "a.png")
    assert change == UNCHANGED
    assert "transparent colour" in photo.notes[0]
    again = read_photo(target)
    expected = ~(picture == key).all(axis=2)
    assert ((again.samples[..., -1] > 0) == expected)[known].all()
    assert (again.samples[..., :-1] == picture)[known].all()


def _png_with_everything(path: Path, depth: int) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a title")
    text.add_text("Comment", "long " * 50, zip=True)
    text.add_itxt("Description", "äöü", "de")
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "description"
    file = io.BytesIO()
    Image.fromarray(samples(3)).save(
        file, "PNG", pnginfo=text, dpi=(300, 300), exif=exif, icc_profile=RGB_PROFILE
    )
    more = [
        png.Chunk(b"gAMA", struct.pack(">I", 45455)),
        png.Chunk(
            b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
        ),
        png.Chunk(b"tIME", bytes([7, 208, 1, 2, 3, 4, 5])),
        png.Chunk(b"vpAg", b"private chunk"),
    ]
    chunks = [*more, *png.ancillary(list(png.iter_chunks(file.getvalue())), True)]
    with open(path, "wb") as target:
        if depth == 16:
            png.write_deep(samples(3, np.uint16), chunks, target)
        else:
            png.splice(file.getbuffer(), more, target)


@row("PNG, text, profile, EXIF, dpi and any other chunk")
@pytest.mark.parametrize("depth", [8, 16])
def test_png_chunks(tmp_path: Path, depth: int) -> None:
    _png_with_everything(tmp_path / "a.png", depth)
    photo, target, _, change = restored(tmp_path / "a.png")
    assert change == UNCHANGED
    assert photo.notes == []
    assert photo.orientation == 6
    before, after = (
        [c for c in png.iter_chunks(p.read_bytes()) if c.name[0] & 32]
        for p in (tmp_path / "a.png", target)
    )
    assert len(before) >= 11
    assert after == before


TABLES = [[3 + i // 5 for i in range(64)], [5 + i // 3 for i in range(64)]]


@row("JPEG, grey", "JPEG, RGB", "JPEG, CMYK")
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_coding(tmp_path: Path, mode: str, subsampling: int, progressive: bool) -> None:
    picture = Image.fromarray(smooth(3)).convert(mode)
    tables = TABLES if mode == "RGB" else TABLES[:1]
    picture.save(
        tmp_path / "a.jpg", qtables=tables, subsampling=subsampling, progressive=progressive
    )
    _, target, _, change = restored(tmp_path / "a.jpg")
    assert 0 < change.mean < 2 < change.largest < 128
    with Image.open(tmp_path / "a.jpg") as before, Image.open(target) as after:
        assert after.mode == mode
        assert after.quantization == before.quantization
        assert mode == "L" or after.layer == before.layer  # one component has none to sample less
        assert after.info.get("progressive") == before.info.get("progressive")


@row("JPEG, red, green and blue without luminance")
def test_jpeg_in_rgb(tmp_path: Path) -> None:
    Image.fromarray(smooth(3)).save(tmp_path / "a.jpg", keep_rgb=True, quality=90)
    _, target, _, change = restored(tmp_path / "a.jpg")
    assert Image.open(target).info["adobe_transform"] == 0
    assert change.mean < 1


def _jpeg_with_everything(path: Path, thumbnail: bool = False) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x013B] = 6, "maker", "the owner"
    exif.get_ifd(0x8769).update(
        {0x829A: 0.01, 0x9003: "2020:01:02 03:04:05", 0xA431: "serial", 0x927C: b"notes"}
    )
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 1.0, 2.0)})
    block = exif.tobytes()
    if thumbnail:
        main = tiff.read_exif(block.removeprefix(jpeg.EXIF_HEADER))[0]
        small = tiff.Directory({259: tiff.number_entry(6, type=tiff.SHORT)})
        file = io.BytesIO()
        tiff.write_directories([main, small], ">", file)
        block = jpeg.EXIF_HEADER + file.getvalue()
    Image.fromarray(smooth(3)).save(
        path, exif=block, icc_profile=RGB_PROFILE, comment=b"a comment", xmp=XMP, dpi=(240, 240)
    )


@row("JPEG, EXIF, XMP, IPTC, profile, comment, dpi")
def test_jpeg_segments(tmp_path: Path) -> None:
    _jpeg_with_everything(tmp_path / "b.jpg")
    with open(tmp_path / "a.jpg", "wb") as file:
        plain = (tmp_path / "b.jpg").read_bytes()
        kept = [s for s in jpeg.read_head(plain)[0] if jpeg.is_metadata(s)]
        jpeg.splice(plain, [*kept, jpeg.Segment(0xED, b"Photoshop 3.0\0IPTC")], file)
    photo, target, _, _ = restored(tmp_path / "a.jpg")
    assert photo.notes == []
    before, after = (
        [s for s in jpeg.read_head(p.read_bytes())[0] if jpeg.is_metadata(s)]
        for p in (tmp_path / "a.jpg", target)
    )
    assert len(before) == 6
    assert after == before
    assert photo.orientation == 6


@row("JPEG, EXIF thumbnail")
def test_thumbnails_are_mentioned(tmp_path: Path) -> None:
    _jpeg_with_everything(tmp_path / "a.jpg", thumbnail=True)
    photo, target, _, _ = restored(tmp_path / "a.jpg")
    assert [n for n in photo.notes if "thumbnail" in n]
    assert tiff.read_exif(read_photo(target).metadata.exif)[1]
    photo, target, _, _ = restored(tmp_path / "a.jpg", metadata="private")
    assert photo.notes == []
    assert not tiff.read_exif(read_photo(target).metadata.exif)[1]


@row("JPEG, further pictures or a video behind the first")
def test_what_follows_a_jpeg_is_mentioned(tmp_path: Path) -> None:
    first, second = Image.fromarray(smooth(3)), Image.fromarray(smooth(3)[::-1])
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    photo, target, _, _ = restored(tmp_path / "a.jpg")
    assert photo.notes == ["1 further pictures in this JPEG file are not kept"]
    assert Image.open(target).format == "JPEG"
    first.save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes() + b"ftypmp42 video")
    photo, _, _, _ = restored(tmp_path / "b.jpg")
    assert photo.notes == ["what follows the picture in this JPEG file is not kept"]


@row("WebP without loss")
@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_webp(tmp_path: Path, channels: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(samples(channels)).save(
        tmp_path / "a.webp", lossless=True, exact=True, exif=exif, xmp=XMP, icc_profile=RGB_PROFILE
    )
    photo, target, known, change = restored(tmp_path / "a.webp")
    assert change == UNCHANGED
    assert photo.notes == []
    same_known(tmp_path / "a.webp", target, known)
    again = read_photo(target)
    assert again.orientation == 3
    assert (again.metadata.exif, again.metadata.xmp) == (photo.metadata.exif, XMP)
    assert again.metadata.icc == RGB_PROFILE
    assert not again.lossy_webp


@row("WebP with loss")
def test_lossy_webp(tmp_path: Path) -> None:
    Image.fromarray(smooth(3)).save(tmp_path / "a.webp", quality=80)
    photo, target, known, change = restored(tmp_path / "a.webp")
    assert change == UNCHANGED
    assert "written without loss" in photo.notes[0]
    same_known(tmp_path / "a.webp", target, known)
    photo, target, _, change = restored(tmp_path / "a.webp", quality=80)
    assert photo.notes == []
    assert read_photo(target).lossy_webp
    assert change.count > 0
    assert not is_lossless(target, 80)
    assert is_lossless(target, None)


def _write_tiff(path: Path, pages: list[tiff.Directory], order: str = "<") -> None:
    with open(path, "wb") as file:
        tiff.write_directories(pages, order, file)


def _page(
    picture: np.ndarray, kind: str, order: str = "<", compressed: bool = True
) -> tiff.Directory:
    flat = picture.reshape(*picture.shape[:2], -1)
    return tiff.encode_page(flat, kind, order, compressed, 2 if kind.endswith("A") else None)


@row(*(f"TIFF, {mode}, 8-bit" for mode in MODES))
@pytest.mark.parametrize("channels", MODES.values())
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits"])
def test_tiff_of_8_bits(tmp_path: Path, channels: int, compression: str) -> None:
    Image.fromarray(samples(channels)).save(tmp_path / "a.tif", compression=compression)
    photo, target, known, change = restored(tmp_path / "a.tif")
    assert change == UNCHANGED
    assert photo.notes == []
    same_known(tmp_path / "a.tif", target, known)
    expected = "raw" if compression == "raw" else "tiff_adobe_deflate"
    assert Image.open(target).info["compression"] == expected


@row("TIFF, grey, 16-bit", "TIFF, RGB, 16-bit", "TIFF, RGB with alpha, 16-bit")
@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, 1, 5, 8])
def test_tiff_of_16_bits(tmp_path: Path, kind: str, order: str, compression: int | None) -> None:
    deep = samples({"L": 1, "RGB": 3, "RGBA": 4}[kind], np.uint16)
    if compression is None:
        _write_tiff(tmp_path / "a.tif", [_page(deep, kind, order)], order)
    else:
        shown = deep if kind == "L" else deep[..., [2, 1, 0, 3][: deep.shape[2]]]
        parameters = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
        cv2.imwrite(str(tmp_path / "a.tif"), shown, parameters)
    photo, target, known, change = restored(tmp_path / "a.tif")
    assert change == UNCHANGED
    assert photo.notes == []
    assert (photo.samples == deep.reshape(photo.samples.shape)).all()
    before, after = (cv2.imread(str(p), -1) for p in (tmp_path / "a.tif", target))
    assert after.dtype == np.uint16
    assert (before[known] == after[known]).all()
    assert len(np.unique(after[~known] % 257)) > 20


@row("TIFF, CMYK")
@pytest.mark.parametrize("profile", [b"", cmyk_profile()])
def test_cmyk_tiff(tmp_path: Path, profile: bytes) -> None:
    inks = samples(4)
    picture = Image.frombuffer("CMYK", (WIDTH, HEIGHT), inks.tobytes(), "raw", "CMYK", 0, 1)
    picture.save(tmp_path / "a.tif", icc_profile=profile or None)
    photo, target, known, change = restored(tmp_path / "a.tif")
    assert change == UNCHANGED
    same_known(tmp_path / "a.tif", target, known)
    assert Image.open(target).mode == "CMYK"
    assert read_photo(target).metadata.icc == profile
    assert bool(photo.notes) == (not profile)
    filled = read_photo(target).rgb[~known].astype(int)
    meant = samples(3, seed=9)[~known]
    assert np.abs(filled - meant).mean() < 12  # the way through the inks and back


@row("TIFF, palette or 1 bit")
def test_palette_and_bilevel_tiff(tmp_path: Path) -> None:
    picture = Image.fromarray(samples(3))
    for made, mode, word in (
        (picture.quantize(16), "RGB", "palette"),
        (picture.convert("1"), "L", "1-bit"),
    ):
        made.save(tmp_path / "a.tif")
        photo, target, known, change = restored(tmp_path / "a.tif")
        assert change == UNCHANGED
        assert photo.notes == [f"{word} became {mode}; values are the same"]
        same_known(tmp_path / "a.tif", target, known, mode)


@row("TIFF, 0 for white")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero(tmp_path: Path, dtype: Any) -> None:
    picture = samples(1, dtype)
    page = _page(picture, "L")
    page.entries[tiff.PHOTOMETRIC] = tiff.number_entry(0, type=tiff.SHORT)
    _write_tiff(tmp_path / "a.tif", [page])
    photo, _, _, change = restored(tmp_path / "a.tif")
    assert change == UNCHANGED
    assert (photo.samples[..., 0] == np.iinfo(dtype).max - picture).all()
    assert "0 for white" in photo.notes[0]


@row("TIFF, several pages")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("policy", ["keep", "private"])
def test_other_pages_are_untouched(tmp_path: Path, order: str, policy: str) -> None:
    first = _page(samples(3), "RGB", order)
    second = _page(samples(3, np.uint16, 1), "RGB", order)
    numbers = _page(samples(1, np.uint16, 2), "L", order)
    numbers.entries[tiff.SAMPLE_FORMAT] = tiff.number_entry(2, type=tiff.SHORT)
    numbers.children[tiff.SUB_PAGES] = [_page(samples(1, seed=5), "L", order)]
    numbers.blocks[513] = [b"an old JPEG stream"]
    numbers.entries[315] = tiff.Entry(2, 6, b"owner\0")
    _write_tiff(tmp_path / "a.tif", [first, second, numbers], order)
    photo, target, known, change = restored(tmp_path / "a.tif", metadata=policy)
    assert change == UNCHANGED
    assert photo.notes == []
    same_known(tmp_path / "a.tif", target, known)
    before, _ = tiff.read_directories((tmp_path / "a.tif").read_bytes())
    after, found = tiff.read_directories(target.read_bytes())
    assert found == order
    assert len(after) == 3
    assert after[1] == before[1]
    if policy == "private":
        del before[2].entries[315]
    assert after[2] == before[2]


def test_pages_with_loose_pointers_are_refused(tmp_path: Path) -> None:
    pages = [_page(samples(1), "L"), _page(samples(1), "L")]
    pages[1].entries[519] = tiff.number_entry(8, 8, 8)
    _write_tiff(tmp_path / "a.tif", pages)
    with pytest.raises(InputError, match="old-style JPEG"):
        read_photo(tmp_path / "a.tif")


@row("TIFF, profile, EXIF, XMP, dpi and any other tag")
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_tags(tmp_path: Path, depth: int, order: str) -> None:
    page = _page(samples(3, np.uint16 if depth == 16 else np.uint8), "RGB", order)
    for tag, data in ((tiff.ICC, RGB_PROFILE), (tiff.XMP, XMP), (33723, b"iptc" * 3)):
        page.entries[tag] = tiff.Entry(tiff.UNDEFINED, len(data), data)
    page.entries[270] = tiff.Entry(2, 8, b"a title\0")
    page.entries[65000] = tiff.Entry(12, 2, struct.pack("<2d", 1.5, -2.25))
    page.entries[282] = page.entries[283] = tiff.Entry(5, 1, struct.pack("<2I", 600, 2))
    page.entries[tiff.ORIENTATION] = tiff.number_entry(5, type=tiff.SHORT)
    page.children[tiff.EXIF] = [
        tiff.Directory({33434: tiff.Entry(5, 1, struct.pack("<2I", 1, 60))})
    ]
    page.children[tiff.GPS] = [tiff.Directory({1: tiff.Entry(2, 2, b"N\0")})]
    _write_tiff(tmp_path / "a.tif", [page], order)
    photo, target, _, change = restored(tmp_path / "a.tif")
    assert change == UNCHANGED
    assert photo.notes == []
    assert photo.orientation == 5
    before, after = (
        tiff.read_directories(p.read_bytes())[0][0].metadata() for p in (tmp_path / "a.tif", target)
    )
    assert after == before
    assert len(after.entries) >= 8
    assert Image.open(target).info["dpi"] == (300, 300)


@row("TIFF, layers, previews, channels beyond alpha")
def test_layers_and_more_channels_are_mentioned(tmp_path: Path) -> None:
    page = tiff.encode_page(samples(4), "RGB", "<", True, 0)
    page.entries[tiff.PHOTOSHOP_LAYERS] = tiff.Entry(tiff.UNDEFINED, 8, b"layers!!")
    page.children[tiff.SUB_PAGES] = [_page(samples(1), "L")]
    _write_tiff(tmp_path / "a.tif", [page])
    photo, target, known, change = restored(tmp_path / "a.tif")
    assert change == UNCHANGED
    assert photo.notes == [
        "1 extra channels of this TIFF file are not kept",
        "layers and previews in this TIFF file are not kept",
    ]
    (after,), _ = tiff.read_directories(target.read_bytes())
    assert tiff.PHOTOSHOP_LAYERS not in after.entries
    assert after.children == {}
    same_known(tmp_path / "a.tif", target, known)


@row("TIFF, JPEG-compressed")
def test_jpeg_in_tiff(tmp_path: Path) -> None:
    Image.fromarray(smooth(3)).save(tmp_path / "a.tif", compression="jpeg")
    photo, target, known, change = restored(tmp_path / "a.tif")
    assert change == UNCHANGED
    assert photo.notes == ["JPEG-compressed TIFF is written with Deflate, without loss"]
    same_known(tmp_path / "a.tif", target, known)


@row("BMP")
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_bmp(tmp_path: Path, mode: str) -> None:
    Image.fromarray(samples(3)).convert(mode).save(tmp_path / "a.bmp", dpi=(200, 200))
    photo, target, known, change = restored(tmp_path / "a.bmp")
    assert change == UNCHANGED
    assert len(photo.notes) == (mode in ("P", "1"))
    same_known(tmp_path / "a.bmp", target, known, {"P": "RGB", "1": "L"}.get(mode))
    assert Image.open(target).info["dpi"] == pytest.approx((200, 200), abs=0.1)


@row("EXIF orientation 1 to 8")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(smooth(3))
    picture.save(
        tmp_path / f"a.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {})
    )
    photo, target, _, change = restored(tmp_path / f"a.{suffix}")
    assert photo.orientation == orientation
    assert suffix == "jpg" or change == UNCHANGED
    with Image.open(target) as again:
        # Pillow shows TIFF turned
        turned = suffix == "tif" and orientation > 4
        assert again.size == (picture.size[::-1] if turned else picture.size)
        assert again.getexif().get(0x0112, 1) == orientation
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a.{suffix}")))
    assert (photo.rgb == shown).all()
    for policy in ("private", "drop"):
        _, target, _, _ = restored(tmp_path / f"a.{suffix}", metadata=policy)
        assert read_photo(target).orientation == orientation


@row("Animated GIF, WebP, PNG")
@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(samples(3, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="animation of 3 frames") as error:
        read_photo(tmp_path / f"a.{suffix}")
    assert error.value.hint


@row("TIFF, floating-point, signed, or 12, 24, 32 bits")
@pytest.mark.parametrize("numbers", ["float", "float colour", "signed", "12 bits", "not a number"])
def test_numbers_that_are_no_levels_are_refused(tmp_path: Path, numbers: str) -> None:
    path = tmp_path / "a.tif"
    if numbers == "signed":
        page = _page(samples(1, np.uint16), "L")
        page.entries[tiff.SAMPLE_FORMAT] = tiff.number_entry(2, type=tiff.SHORT)
        _write_tiff(path, [page])
    elif numbers == "12 bits":
        page = _page(samples(1, np.uint16), "L", compressed=False)
        page.entries[tiff.BITS] = tiff.number_entry(12, type=tiff.SHORT)
        _write_tiff(path, [page])
    else:
        shape = (HEIGHT, WIDTH, 3) if numbers == "float colour" else (HEIGHT, WIDTH)
        value = np.nan if numbers == "not a number" else 0.5
        cv2.imwrite(str(path), np.full(shape, value, np.float32))
    with pytest.raises(InputError, match="8-bit and 16-bit levels") as error:
        read_photo(path)
    assert error.value.hint


@row("TIFF, CMYK or grey with alpha of 16 bits; BigTIFF")
def test_rare_tiffs_are_refused(tmp_path: Path) -> None:
    for kind, channels in (("CMYK", 4), ("LA", 2)):
        _write_tiff(tmp_path / "a.tif", [_page(samples(channels, np.uint16), kind)])
        with pytest.raises(InputError, match="of a kind that d2s does not read"):
            read_photo(tmp_path / "a.tif")
    Image.fromarray(samples(3)).save(tmp_path / "a.tif", big_tiff=True)
    if (tmp_path / "a.tif").read_bytes()[2] == 43:
        with pytest.raises(InputError, match="BigTIFF"):
            read_photo(tmp_path / "a.tif")


@row("GIF, AVIF, JPEG 2000 and what else Pillow reads")
def test_other_formats_are_read(tmp_path: Path) -> None:
    picture = Image.fromarray(samples(3))
    for suffix in ("gif", "ppm", "tga", *(["jp2"] if features.check("jpg_2000") else [])):
        picture.save(tmp_path / f"a.{suffix}")
        photo, target, known, change = restored(tmp_path / f"a.{suffix}", f"{suffix}.png")
        assert change == UNCHANGED
        assert any("is read with 8 bits" in note for note in photo.notes)
        same_known(tmp_path / f"a.{suffix}", target, known, "RGB")
        with pytest.raises(InputError, match="writes no picture format") as error:
            restored(tmp_path / f"a.{suffix}")
        assert "--format png" in error.value.hint


def test_every_row_of_the_table_has_its_test() -> None:
    table = TABLE.read_text().split("| Source |")[1].split("\n\n")[0]
    listed = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert sorted(listed) == sorted(COVERED)


# --format, --quality, --metadata


@pytest.mark.parametrize(
    ("suffix", "target"), list(itertools.permutations(["jpg", "tif", "webp", "png"], 2))
)
def test_metadata_goes_into_other_formats(tmp_path: Path, suffix: str, target: str) -> None:
    _jpeg_with_everything(tmp_path / "first.jpg")
    first = read_photo(tmp_path / "first.jpg")
    write_photo(first, first.samples, tmp_path / f"a.{suffix}")
    _, path, _, change = restored(tmp_path / f"a.{suffix}", f"out.{target}")
    again = read_photo(path)
    assert target == "jpg" or change == UNCHANGED
    assert again.orientation == 6
    assert again.metadata.icc == RGB_PROFILE
    assert again.metadata.xmp == XMP
    main = tiff.read_exif(again.metadata.exif)[0]
    assert main.entries[0x010F].data == b"maker\0"
    assert main.children[tiff.GPS][0].entries[1].data.startswith(b"N")
    assert main.children[tiff.EXIF][0].entries[0x9003].data.startswith(b"2020")
    if "webp" not in (suffix, target):
        assert again.metadata.dpi == pytest.approx((240, 240), abs=0.1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("policy", ["private", "drop"])
def test_private_metadata_is_dropped(tmp_path: Path, suffix: str, policy: str) -> None:
    _jpeg_with_everything(tmp_path / "first.jpg", thumbnail=True)
    first = read_photo(tmp_path / "first.jpg")
    write_photo(first, first.samples, tmp_path / f"a.{suffix}")
    if suffix == "png":
        chunks = list(png.iter_chunks((tmp_path / "a.png").read_bytes()))
        assert any(c.name == b"eXIf" for c in chunks)
    _, path, _, _ = restored(tmp_path / f"a.{suffix}", metadata=policy)
    data = path.read_bytes()
    for secret in (b"the owner", b"serial", b"notes", b"a comment", b"xmpmeta"):
        assert secret not in data
    again = read_photo(path)
    assert again.orientation == 6
    assert again.metadata.icc == RGB_PROFILE
    main, thumbnail = tiff.read_exif(again.metadata.exif)
    assert not thumbnail
    assert tiff.GPS not in main.children
    if policy == "drop":
        assert (b"maker" in data, again.metadata.dpi) == (False, None)
        return
    assert main.entries[0x010F].data == b"maker\0"
    assert main.children[tiff.EXIF][0].entries.keys() == {0x829A, 0x9003}
    assert suffix == "webp" or again.metadata.dpi == pytest.approx((240, 240), abs=0.1)


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    with open(tmp_path / "deep.png", "wb") as file:
        png.write_deep(samples(2, np.uint16), [], file)
    photo, _, _, change = restored(tmp_path / "deep.png", "out.webp")
    assert change == UNCHANGED
    assert len(photo.notes) == 2
    photo, _, _, _ = restored(tmp_path / "deep.png", "out.jpg")
    assert len(photo.notes) == 2
    photo, path, _, change = restored(tmp_path / "deep.png", "out.tif")
    assert (change, photo.notes) == (UNCHANGED, ["LA became RGBA in TIFF; values are the same"])
    assert read_photo(path).samples.dtype == np.uint16
    inks = Image.frombuffer("CMYK", (WIDTH, HEIGHT), samples(4).tobytes(), "raw", "CMYK", 0, 1)
    inks.save(tmp_path / "a.tif", icc_profile=cmyk_profile())
    photo, path, _, change = restored(tmp_path / "a.tif", "out.png")
    assert change == UNCHANGED
    assert photo.notes == [
        "CMYK became RGB in PNG; colours are converted",
        "a profile for CMYK is not kept",
    ]
    assert read_photo(path).metadata.icc == b""


def test_a_wrong_ending_is_read_by_content_and_written_by_name(tmp_path: Path) -> None:
    Image.fromarray(samples(3)).save(tmp_path / "a.png", "TIFF")
    photo, target, known, change = restored(tmp_path / "a.png")
    assert change == UNCHANGED
    assert photo.notes == ["the file holds TIFF; the result is PNG, as the name says"]
    assert Image.open(target).format == "PNG"
    same_known(tmp_path / "a.png", target, known)


def test_quality_changes_jpeg_tables(tmp_path: Path) -> None:
    Image.fromarray(smooth(3)).save(tmp_path / "a.jpg", quality=90, subsampling=2)
    _, kept, _, _ = restored(tmp_path / "a.jpg", "kept.jpg")
    _, small, _, _ = restored(tmp_path / "a.jpg", "small.jpg", quality=20)
    assert small.stat().st_size < kept.stat().st_size
    with Image.open(kept) as one, Image.open(small) as other:
        assert one.quantization != other.quantization
        assert one.layer == other.layer


@pytest.mark.parametrize(
    ("suffix", "choice", "expected"),
    [
        (".JPEG", "jpeg", ".JPEG"),
        (".tiff", "tiff", ".tiff"),
        (".png", "keep", ".png"),
        (".gif", "keep", ".gif"),
        (".gif", "png", ".png"),
        (".png", "jpeg", ".jpg"),
        (".bmp", "webp", ".webp"),
    ],
)
def test_format_gives_the_ending(suffix: str, choice: str, expected: str) -> None:
    assert suffix_for(suffix, choice) == expected


def test_format_and_output_must_agree(tmp_path: Path) -> None:
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(samples(1)).save(tmp_path / name)
    (job,) = make_plan([tmp_path / "a.png"], choice="webp").jobs
    assert job.output.name == "a_d2s.webp"
    with pytest.raises(UsageError, match="different formats") as error:
        make_plan([tmp_path / "a.png"], output=tmp_path / "out.png", choice="jpeg")
    assert "out.jpg" in error.value.hint
    with pytest.raises(UsageError, match="unknown --format"):
        make_plan([tmp_path / "a.png"], choice="gif")


# properties

KINDS = {"PNG": "L LA RGB RGBA", "TIFF": "L LA RGB RGBA CMYK", "WEBP": "RGB RGBA", "BMP": "L RGB"}
ENDINGS = {name: suffix for suffix, name in reversed(FORMATS.items())}


@st.composite
def pictures(draw: st.DrawFn) -> tuple[str, str, np.ndarray, int, np.ndarray]:
    """Format, kind, samples, orientation and upright hole of a small picture."""
    name = draw(st.sampled_from(list(KINDS)))
    kind = draw(st.sampled_from(KINDS[name].split()))
    deep = name in ("PNG", "TIFF") and kind != "CMYK" and (name, kind) != ("TIFF", "LA")
    dtype = draw(st.sampled_from([np.uint8, np.uint16])) if deep else np.uint8
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    channels = len(kind)
    seed = draw(st.integers(0, 1000))
    picture = samples(channels, dtype, seed, (height, width)).reshape(height, width, channels)
    orientation = draw(st.integers(1, 8)) if name != "BMP" else 1
    shape = (width, height) if orientation > 4 else (height, width)
    flags = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return name, kind, picture, orientation, np.array(flags).reshape(shape)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=pictures())
def test_known_samples_are_identical_in_every_lossless_form(
    tmp_path_factory: pytest.TempPathFactory, case: Any
) -> None:
    name, kind, picture, orientation, hole = case
    folder = tmp_path_factory.mktemp("property")
    source, target = (folder / f"{stem}{ENDINGS[name]}" for stem in ("a", "b"))
    made = Photo(source, picture, kind, "", orientation)
    page = {tiff.ORIENTATION: tiff.number_entry(orientation, type=tiff.SHORT)}
    file = io.BytesIO()
    tiff.write_directories([tiff.Directory(page)], "<", file)
    made.metadata = type(made.metadata)(exif=file.getvalue())
    write_photo(made, picture, source)
    photo = read_photo(source)
    assert photo.orientation == orientation
    opaque = np.iinfo(picture.dtype).max
    if photo.kind != kind:  # WebP leaves out alpha that is opaque everywhere
        assert (picture[..., -1] == opaque).all()
    assert (photo.samples == picture[..., : photo.samples.shape[2]]).all()
    result = samples(3, picture.dtype, 4, hole.shape)
    write_photo(photo, fill_hole(photo, result, hole), target)
    assert changed_known_pixels(photo, hole, target) == UNCHANGED
    assert read_photo(target).orientation == orientation
    if kind in ("RGB", "RGBA"):
        assert (read_photo(target).rgb[hole] == result[hole]).all()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    suffix=st.sampled_from(["png", "deep.png", "jpg", "webp", "tif", "deep.tif", "bmp"]),
    cut=st.floats(0, 0.98),
    noise=st.integers(0, 3),
    seed=st.integers(0, 10_000),
)
def test_damaged_files_are_input_errors_or_pictures(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, cut: float, noise: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"a.{suffix}"
    if suffix == "deep.png":
        with open(path, "wb") as file:
            png.write_deep(samples(3, np.uint16), [], file)
    elif suffix == "deep.tif":
        _write_tiff(path, [_page(samples(3, np.uint16), "RGB")])
    else:
        Image.fromarray(samples(3)).save(path)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    if noise == 0:
        path.write_bytes(data[: int(len(data) * cut)])
        with pytest.raises(InputError) as error:
            read_photo(path)
        assert error.value.hint
        return
    for place in rng.integers(0, len(data), noise):
        data[place] = rng.integers(0, 256)
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        assert read_photo(path).rgb.ndim == 3


# faults


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_and_missing_files(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match="no picture at"):
        read_photo(tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").touch()
    with pytest.raises(InputError, match="cannot read") as error:
        read_photo(tmp_path / f"a{suffix}")
    assert error.value.hint


def test_text_under_a_picture_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("this is no picture")
    with pytest.raises(InputError, match="cannot read"):
        read_photo(tmp_path / "a.jpg")


def test_pictures_too_large_for_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(samples(3)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="too large") as error:
        read_photo(tmp_path / "a.png")
    assert "parts" in error.value.hint


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("fault", ["replace", "write"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, fault: str
) -> None:
    Image.fromarray(samples(3)).save(tmp_path / f"a{suffix}")
    target = tmp_path / f"out{suffix}"
    target.write_bytes(b"the old result")
    photo = read_photo(tmp_path / f"a{suffix}")

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if fault == "replace":
        monkeypatch.setattr(os, "replace", full)
    elif suffix.startswith(".tif"):
        monkeypatch.setattr(tiff, "write_directories", full)
    else:
        monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match="cannot write") as error:
        write_photo(photo, photo.samples, target)
    assert "room" in error.value.hint
    assert target.read_bytes() == b"the old result"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"a{suffix}", f"out{suffix}"])


def test_too_large_for_the_format(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 17_000, 3), np.uint8)).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot write") as error:
        write_photo(photo, photo.samples, tmp_path / "a.webp")
    assert "--format png" in error.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


def test_a_changed_known_pixel_is_found_in_any_channel(tmp_path: Path) -> None:
    Image.fromarray(samples(4)).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[:5] = True
    wrong = photo.samples.copy()
    wrong[10, 10, 3] ^= 8  # alpha only
    wrong[2, 2] ^= 255  # in the hole
    write_photo(photo, wrong, tmp_path / "b.png")
    change = changed_known_pixels(photo, hole, tmp_path / "b.png")
    assert change == Change(1, 8, pytest.approx(8 / (4 * (HEIGHT - 5) * WIDTH)))


def test_tiff_directories_that_form_a_circle(tmp_path: Path) -> None:
    file = io.BytesIO()
    tiff.write_directories([_page(samples(1), "L")], "<", file)
    data = bytearray(file.getvalue())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match="circle"):
        read_photo(tmp_path / "a.tif")


def test_masks_fit_turned_photos(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(samples(3)).save(tmp_path / "a.tif", exif=exif)
    photo = read_photo(tmp_path / "a.tif")
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[2, 30] = 255
    Image.fromarray(stored).save(tmp_path / "m.png")
    hole = read_mask(tmp_path / "m.png", photo).hole
    assert hole.shape == (WIDTH, HEIGHT)
    assert np.argwhere(hole).tolist() == [[WIDTH - 1 - 30, 2]]


def test_tags_without_values_count_as_absent(tmp_path: Path) -> None:
    page = _page(samples(1), "L")
    page.entries[tiff.ORIENTATION] = tiff.Entry(tiff.SHORT, 0, b"")
    _write_tiff(tmp_path / "a.tif", [page])
    assert read_photo(tmp_path / "a.tif").orientation == 1
