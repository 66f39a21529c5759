"""Picture files to photos: samples as stored, metadata, and notes on what cannot be kept."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from d2s_cli.errors import InputError
from d2s_cli.images import jpeg_segments as jpeg
from d2s_cli.images import png_chunks as png
from d2s_cli.images import tiff_directory as tiff
from d2s_cli.images.colour import CHANNELS, is_usable_profile, with_alpha
from d2s_cli.images.files import check_file
from d2s_cli.images.metadata import Metadata, exif_of_page
from d2s_cli.images.photo import ORIENTATIONS, JpegCoding, Photo, TiffCoding

READ_ERRORS = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    EOFError,
    RecursionError,
    struct.error,
    zlib.error,
    cv2.error,
    Image.DecompressionBombError,
)
LOOK_ELSEWHERE = "open it in another program: if that fails too, the file is damaged"
#: what cameras, phones and scanners make besides pictures that are read: where it begins, and how
_NOT_READ = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypcrx", "a raw picture of a camera"),
    (0, b"FUJIFILMCCD-RAW", "a raw picture of a camera"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
)
#: formats whose further pictures are moments in time
_ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
#: Pillow's modes that lose nothing as another one
_SAME_COLOURS = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}


@dataclass
class _Source:
    """A file under way to a Photo."""

    path: Path
    data: bytes
    file: Image.Image
    notes: list[str] = field(default_factory=list)


def read_photo(path: Path) -> Photo:
    """Read a picture.

    Raises:
        InputError: missing, unreadable, truncated, too large, animated, or of numbers that are no
            8-bit or 16-bit levels.
    """
    check_file(path, "picture", "look at the spelling, or name a folder")
    try:
        data = path.read_bytes()
        _refuse_tiff(path, data)
        with warnings.catch_warnings():
            # large pictures are what d2s is for, and far larger ones are refused below; what is
            # damaged in the metadata is noted
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as file:
                return _photo(_Source(path, data, file))
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path} is too large: {error}", "cut the picture into parts, and restore each"
        ) from error
    except READ_ERRORS as error:
        if isinstance(error, UnidentifiedImageError):
            raise _unknown(path, data) from error
        raise InputError(f"cannot read {path}: {error}", LOOK_ELSEWHERE) from error


def _unknown(path: Path, data: bytes) -> InputError:
    """What to say of a file that no format fits."""
    for place, start, name in _NOT_READ:
        if data[place:].startswith(start):
            return InputError(
                f"cannot read {path}: it holds {name}, which d2s does not read",
                "make a PNG or TIFF file of it, as programs for photos do, and restore that",
            )
    return InputError(f"cannot read {path}: {_why_unknown(data)}", LOOK_ELSEWHERE)


def _why_unknown(data: bytes) -> str:
    """Why no format fits a file."""
    if not data:
        return "the file is empty"
    try:
        if data.startswith(png.SIGNATURE):
            list(png.iter_chunks(data))
    except ValueError as error:
        return str(error)
    return "it holds no picture of a known format"


def _photo(source: _Source) -> Photo:
    name = source.file.format or ""
    readers: dict[str, Callable[[_Source], Photo]] = {
        "PNG": _read_png,
        "JPEG": _read_jpeg,
        "MPO": _read_jpeg,
        "TIFF": _read_tiff,
    }
    photo = readers.get(name, _read_plain)(source)
    photo.notes += source.notes
    if name not in (*readers, "WEBP", "BMP"):
        photo.note(f"{name} is read with 8 bits; of its metadata, EXIF and profile are read")
    if photo.kind == "CMYK" and not is_usable_profile(photo.metadata.icc):
        photo.note("no CMYK profile: colours in the hole are converted by the plain formula")
    return photo


def _read_plain(source: _Source) -> Photo:
    """A file that Pillow decodes whole, and whose metadata it knows."""
    file = source.file
    _refuse_frames(source)
    samples, kind = _decode(source)
    exif = _exif(source, file.info.get("exif") or b"")
    info = file.info
    found = Metadata(exif, info.get("icc_profile") or b"", _xmp(info), _dpi(info))
    lossy = file.format == "WEBP" and b"VP8 " in _riff_names(source.data)
    name, orientation = file.format or "", _orientation(file)
    return Photo(source.path, samples, kind, name, orientation, found, lossy_webp=lossy)


def _refuse_frames(source: _Source) -> None:
    frames = getattr(source.file, "n_frames", 1)
    if frames > 1 and source.file.format not in _ANIMATED:
        source.notes.append(f"only the first of {frames} pictures or layers is read")
    elif frames > 1:
        raise InputError(
            f"{source.path} is an animation of {frames} frames; d2s restores single pictures",
            "save its frames as single files, for example: ffmpeg -i ANIMATION frame%04d.png",
        )


def _riff_names(data: bytes) -> set[bytes]:
    """Names of the chunks of a WebP file."""
    names, at = set(), 12
    while at + 8 <= len(data):
        names.add(data[at : at + 4])
        (length,) = struct.unpack_from("<I", data, at + 4)
        at += 8 + length + length % 2
    return names


def _decode(source: _Source) -> tuple[NDArray[Any], str]:
    """Samples H x W x C and their kind, by Pillow."""
    file = source.file
    file.load()
    picture, mode = file, file.mode
    if mode.startswith("I;16"):
        return np.asarray(file).astype(np.uint16)[..., None], "L"
    if mode in ("P", "PA") or "transparency" in file.info:
        alpha = "transparency" in file.info or mode == "PA"
        grey = mode in ("1", "L")
        picture = file.convert(("LA" if grey else "RGBA") if alpha else "RGB")
    elif mode in _SAME_COLOURS:
        picture = file.convert(_SAME_COLOURS[mode])
    if picture.mode not in CHANNELS:
        raise InputError(
            f"{source.path} holds {_numbers(mode)}; d2s restores 8-bit and 16-bit levels",
            "save it as a 16-bit TIFF or PNG, grey or RGB",
        )
    if picture.mode != mode:
        source.notes.append(f"{_mode_name(mode)} became {picture.mode}; values are the same")
    samples = np.asarray(picture)
    return samples.reshape(*samples.shape[:2], -1), picture.mode


def _numbers(mode: str) -> str:
    names = {"F": "floating-point numbers", "I": "32-bit or signed numbers", "LAB": "Lab colours"}
    return names.get(mode, mode)


def _mode_name(mode: str) -> str:
    names = {"1": "1-bit", "P": "palette", "PA": "palette with alpha"}
    return names.get(mode, f"{mode} with a transparent colour" if mode in CHANNELS else mode)


def _orientation(file: Image.Image) -> int:
    try:
        value = file.getexif().get(tiff.ORIENTATION, 1)
    except READ_ERRORS:
        return 1  # a damaged block, which is noted where it is read
    return value if value in ORIENTATIONS else 1


def _exif(source: _Source, block: bytes) -> bytes:
    """The block without JPEG's header, or nothing (and a note) if it cannot be read."""
    block = block.removeprefix(jpeg.EXIF_HEADER)
    try:
        if block:
            tiff.read_exif(block)
    except ValueError as error:
        source.notes.append(f"the EXIF block is damaged ({error})")
        return b""
    return block


def _xmp(info: dict[Any, Any]) -> bytes:
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    return packet.encode() if isinstance(packet, str) else bytes(packet)


def _dpi(info: dict[Any, Any]) -> tuple[float, float] | None:
    x, y = info.get("dpi") or (0, 0)
    return (float(x), float(y)) if x > 0 and y > 0 else None


def _read_png(source: _Source) -> Photo:
    _refuse_frames(source)
    chunks = list(png.iter_chunks(source.data))
    layout = png.layout_of(chunks)
    named = {chunk.name: chunk.data for chunk in chunks}
    if layout.depth == 16:
        samples, kind = _decode_deep_png(source, layout, named.get(b"tRNS"))
        exif = _exif(source, named.get(b"eXIf", b""))
        value = tiff.read_exif(exif)[0].number(tiff.ORIENTATION, 1) if exif else 1
        orientation = value if value in ORIENTATIONS else 1
    else:
        samples, kind = _decode(source)
        png.check_pixels(source.data, layout)
        if layout.depth in (2, 4) and layout.colour_type == 0:
            source.notes.append(f"{layout.depth}-bit grey became L; values are the same")
        exif = _exif(source, source.file.info.get("exif") or b"")
        orientation = _orientation(source.file)
    same = layout.colour_type != 3 and layout.depth >= 8 and b"tRNS" not in named
    info = source.file.info
    found = Metadata(
        exif,
        info.get("icc_profile") or b"",
        _xmp(info),
        _dpi(info),
        chunks=png.ancillary(chunks, same),
    )
    return Photo(source.path, samples, kind, "PNG", orientation, found)


def _decode_deep_png(
    source: _Source, layout: png.Layout, transparent: bytes | None
) -> tuple[NDArray[Any], str]:
    """Samples of a PNG file with 16 bits, which Pillow would cut to 8."""
    stored = _decode_deep(np.frombuffer(source.data, np.uint8))
    stored = stored.reshape(*stored.shape[:2], -1)
    grey, alpha = layout.colour_type in (0, 4), layout.colour_type in (4, 6)
    samples = stored[..., :1] if grey else stored[..., 2::-1]
    if alpha:
        samples = np.concatenate([samples, stored[..., 3:]], axis=2)
    elif transparent:
        samples = with_alpha(samples)
        key = np.frombuffer(transparent, ">u2")
        samples[..., -1][(samples[..., :-1] == key).all(axis=2)] = 0
        source.notes.append("a transparent colour became an alpha channel; values are the same")
    kind = ("L" if grey else "RGB") + ("A" if alpha or transparent else "")
    return np.ascontiguousarray(samples), kind


def _decode_deep(data: NDArray[np.uint8]) -> NDArray[Any]:
    """OpenCV's array of a file with 16 bits; ValueError if it cannot decode it."""
    level = cv2.utils.logging.setLogLevel(0)  # what goes wrong is said once, below
    try:
        stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if stored is None or stored.dtype != np.uint16:
        raise ValueError("damaged 16-bit pixels, or a compression that is not known")
    return np.asarray(stored)


def _read_jpeg(source: _Source) -> Photo:
    file = source.file
    assert isinstance(file, JpegImagePlugin.JpegImageFile)
    segments = jpeg.read_head(source.data)[0]
    samples, kind = _decode(source)
    further = getattr(file, "n_frames", 1) - 1
    if further:
        source.notes.append(f"{further} further pictures in this JPEG file are not kept")
    elif not source.data.rstrip(b"\0").endswith(b"\xff\xd9"):
        source.notes.append("what follows the picture in this JPEG file is not kept")
    info = file.info
    exif = _exif(source, info.get("exif") or b"")
    kept = [s for s in segments if jpeg.is_metadata(s)]
    # where the file is silent, Pillow makes up a resolution
    in_exif = bool(exif) and tiff.X_RESOLUTION in tiff.read_exif(exif)[0].entries
    dpi = _dpi(info) if info.get("jfif_unit") or in_exif else None
    found = Metadata(exif, info.get("icc_profile") or b"", _xmp(info), dpi, segments=kept)
    orientation = _orientation(file)
    return Photo(source.path, samples, kind, "JPEG", orientation, found, _coding(source, segments))


def _coding(source: _Source, segments: list[jpeg.Segment]) -> JpegCoding:
    file = source.file
    assert isinstance(file, JpegImagePlugin.JpegImageFile)
    tables = [file.quantization[component[3]] for component in file.layer]
    while len(tables) > 1 and tables[-1] == tables[-2]:
        tables.pop()  # the last table serves the components that follow
    subsampling = _subsampling([(across, down) for _, across, down, _ in file.layer])
    transform = file.info.get("adobe_transform")
    if subsampling < 0:
        source.notes.append("this JPEG's rare chroma subsampling became 4:4:4")
    if any(segment.marker in jpeg.ARITHMETIC for segment in segments):
        source.notes.append("this JPEG's arithmetic coding became Huffman's, which all can read")
    if file.layers == 4 and transform == 2:
        source.notes.append("this JPEG's YCCK coding became CMYK")
    return JpegCoding(
        tables,
        subsampling,
        bool(file.info.get("progressive")),
        file.mode == "RGB" and transform == 0,
    )


def _subsampling(factors: list[tuple[int, int]]) -> int:
    """JpegCoding.subsampling for the sampling factors of a file's components."""
    if len(factors) == 1:
        return 0
    if set(factors[1:]) != {(1, 1)}:
        return -1
    return {(1, 1): 0, (2, 1): 1, (2, 2): 2}.get(factors[0], -1)


def _refuse_tiff(path: Path, data: bytes) -> None:
    """InputError for TIFF files that neither decoder takes, with the reason."""
    if data[:4] in (b"II+\0", b"MM\0+"):
        raise InputError(
            f"{path} is a BigTIFF file, which d2s does not read",
            "save it as a classic TIFF, which holds up to 4 GiB, or as PNG",
        )
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return
    page = tiff.read_directories(data)[0][0]
    bits = _bits(page)
    kinds = {2: "signed numbers", 3: "floating-point numbers"}
    kind = kinds.get(page.number(tiff.SAMPLE_FORMAT, 1))
    if kind or len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        depth = " and ".join(map(str, sorted(bits)))
        raise InputError(
            f"{path} holds {kind or 'levels'} of {depth} bits; d2s restores 8-bit and 16-bit"
            " levels",
            "save it as a 16-bit TIFF or PNG",
        )
    if bits == {16} and _deep_kind(page) is None:
        raise InputError(
            f"{path} holds 16 bits in {page.number(tiff.SAMPLES_PER_PIXEL, 1)} channels of a kind"
            " that d2s does not read",
            "save it as grey, RGB or RGBA with 16 bits, or as CMYK with 8",
        )


def _bits(page: tiff.Directory) -> set[int]:
    return set(page.entries[tiff.BITS].numbers()) if tiff.BITS in page.entries else {1}


def _deep_kind(page: tiff.Directory) -> str | None:
    """Kind of a page with 16 bits, None if d2s does not read it."""
    layout = page.number(tiff.PHOTOMETRIC, 1), page.number(tiff.SAMPLES_PER_PIXEL, 1)
    return {(0, 1): "L", (1, 1): "L", (2, 3): "RGB", (2, 4): "RGBA"}.get(layout)


def _read_tiff(source: _Source) -> Photo:
    pages, order = tiff.read_directories(source.data)
    page = pages[0]
    if not all(other.can_be_copied() for other in pages[1:]):
        raise InputError(
            f"{source.path} has pages in old-style JPEG coding, which cannot be carried over",
            "save it again in another program, for example with Deflate compression",
        )
    # where the file is silent, Pillow makes up a resolution
    dpi = _dpi(source.file.info) if tiff.X_RESOLUTION in page.entries else None
    deep = _deep_kind(page) if _bits(page) == {16} else None
    samples, kind = _decode_tiff(source, page, order, deep)
    _note_tiff_changes(source, page, CHANNELS[deep] if deep else len(source.file.getbands()))
    found = Metadata(
        exif_of_page(page),
        _bytes_of(page, tiff.ICC),
        _bytes_of(page, tiff.XMP),
        dpi,
        page=page.metadata(),
        more_pages=pages[1:],
    )
    extra = page.number(tiff.EXTRA_SAMPLES, 2) if deep else 2
    coding = TiffCoding(order, page.number(tiff.COMPRESSION, 1) != 1, extra)
    value = page.number(tiff.ORIENTATION, 1)
    orientation = value if value in ORIENTATIONS else 1
    return Photo(source.path, samples, kind, "TIFF", orientation, found, tiff=coding)


def _decode_tiff(
    source: _Source, page: tiff.Directory, order: str, deep: str | None
) -> tuple[NDArray[Any], str]:
    """Samples of a page and their kind; by OpenCV for 16-bit colour, which Pillow cuts to 8."""
    if deep in ("RGB", "RGBA"):
        return _decode_deep_colour(_bare(page, order), deep), deep
    if page.number(tiff.ORIENTATION, 1) != 1:
        source.file = Image.open(_bare(page, order))
    samples, kind = _decode(source)
    if deep and page.number(tiff.PHOTOMETRIC, 1) == 0:
        samples = 65535 - samples  # Pillow turns round white and black for 8 bits only
    return samples, kind


def _bare(page: tiff.Directory, order: str) -> io.BytesIO:
    """A file with this page's pixels and no more, so that no decoder turns them."""
    bare = page.only(lambda tag: tag in tiff.LAYOUT and tag != tiff.SUB_PAGES)
    file = io.BytesIO()
    tiff.write_directories([bare], order, file)
    file.seek(0)
    return file


def _decode_deep_colour(file: io.BytesIO, kind: str) -> NDArray[Any]:
    stored = _decode_deep(np.frombuffer(file.getbuffer(), np.uint8))
    code = cv2.COLOR_BGR2RGB if kind == "RGB" else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(stored, code))


def _note_tiff_changes(source: _Source, page: tiff.Directory, channels: int) -> None:
    stored, bits = page.number(tiff.SAMPLES_PER_PIXEL, 1), _bits(page)
    if stored > channels:
        source.notes.append(f"{stored - channels} extra channels of this TIFF file are not kept")
    if bits <= {2, 4} and source.file.mode == "L":
        source.notes.append(f"{max(bits)}-bit grey became L; values are the same")
    if page.number(tiff.PHOTOMETRIC, 1) == 0:
        source.notes.append("levels with 0 for white became levels with 0 for black")
    if page.number(tiff.EXTRA_SAMPLES, 0) == 1 and bits == {8}:
        source.notes.append("premultiplied alpha became plain alpha")
    if page.number(tiff.COMPRESSION, 1) in (6, 7):
        source.notes.append("JPEG-compressed TIFF is written with Deflate, without loss")
    if tiff.SUB_PAGES in page.children or tiff.PHOTOSHOP_LAYERS in page.entries:
        source.notes.append("layers and previews in this TIFF file are not kept")


def _bytes_of(page: tiff.Directory, tag: int) -> bytes:
    entry = page.entries.get(tag)
    return entry.data if entry else b""
