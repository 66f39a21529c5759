"""Broken and odd inputs, what becomes of each, and how to make it: what tests/test_zoo.py runs."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from profiles import cmyk_profile

from d2s_cli.images import png_chunks as png
from d2s_cli.images import tiff_directory as tiff

Words = list[object]
Maker = Callable[[Path], Words | None]

#: width and height of pictures, and the hole: left, top, right, bottom
SIZE = (24, 20)
BOX = (8, 6, 16, 14)
#: exit codes of a folder run with one good pair besides
CODES = {"restored": 0, "copied": 0, "ignored": 0, "refused": 3, "stops": 4}


@dataclass(frozen=True)
class Odd:
    """One kind of input.

    Attributes:
        group, name: heading and row of the table in docs/odd-inputs.md.
        outcome: restored, copied, refused (it fails, the rest goes on), ignored (it is no
            picture), or stops (nothing is done at all).
        says: part of what is said about it.
        make: adds it to a folder that holds a good pair; may return other words to type.
        code: exit code.
    """

    group: str
    name: str
    outcome: str
    says: str
    make: Maker
    code: int


ZOO: list[Odd] = []


def odd(
    group: str, name: str, outcome: str, says: str = "", code: int | None = None
) -> Callable[[Maker], Maker]:
    """Adds what a maker makes to the zoo."""

    def add(make: Maker) -> Maker:
        code_of = CODES[outcome] if code is None else code
        ZOO.append(Odd(group, name, outcome, says, make, code_of))
        return make

    return add


#: rows whose tests are in tests/test_conditions.py: name, outcome, says
CONDITIONS: list[tuple[str, str, str]] = []
Test = Callable[..., None]


def condition(name: str, outcome: str, says: str) -> Callable[[Test], Test]:
    """Marks the test of a row about what happens round a run."""

    def mark(test: Test) -> Test:
        CONDITIONS.append((name, outcome, says))
        return test

    return mark


def table() -> str:
    """The tables of docs/odd-inputs.md."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for one in ZOO:
        groups.setdefault(one.group, []).append((one.name, one.outcome, one.says))
    groups["What happens round a run"] = CONDITIONS
    lines: list[str] = []
    for group, rows in groups.items():
        lines += [f"## {group}", "", "| Input | Outcome | Said |", "| --- | --- | --- |"]
        lines += [f"| {name.replace('|', chr(92) + '|')} | {o} | {s} |" for name, o, s in rows]
        lines += [""]
    return "\n".join(lines)


# pieces


def picture(mode: str = "RGB", size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    count = len(Image.new(mode, (1, 1)).getbands()) * size[0] * size[1]
    return Image.frombytes(mode, size, np.random.default_rng(seed).bytes(count))


def coded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def mask(size: tuple[int, int] = SIZE, box: tuple[int, ...] = BOX) -> Image.Image:
    """White in the box."""
    hole = np.zeros((size[1], size[0]), np.uint8)
    hole[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(hole)


def put(folder: Path, name: str, data: bytes, hole: Image.Image | None = None) -> Path:
    """A picture file and the mask beside it."""
    path = folder / name
    path.write_bytes(data)
    (hole or mask()).save(folder / f"{path.stem}_mask.png", "PNG")
    return path


def good_pair(folder: Path, name: str = "good") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return put(folder, f"{name}.png", coded(picture(seed=9), "PNG"))


def deep_png(channels: int = 3) -> bytes:
    file = io.BytesIO()
    shape = (SIZE[1], SIZE[0], channels)
    png.write_deep(np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16), [], file)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return png.Chunk(name, data).to_bytes()


def bare_png(width: int, height: int, pixels: bytes = b"", depth: int = 8, type: int = 2) -> bytes:
    """A PNG file with a header of one's own and compressed `pixels`."""
    head = struct.pack(">IIBBBBB", width, height, depth, type, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")
    return png.SIGNATURE + b"".join(chunk(*part) for part in parts)


def after_header(data: bytes, *chunks: bytes) -> bytes:
    """A PNG file with more chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def page(samples: np.ndarray, kind: str = "L", **numbers: int) -> bytes:
    """A TIFF file with tags of one's own; names are those of tiff_directory."""
    made = tiff.encode_page(samples, kind, "<", False, None)
    for name, value in numbers.items():
        made.entries[getattr(tiff, name)] = tiff.number_entry(value, type=tiff.SHORT)
    file = io.BytesIO()
    tiff.write_directories([made], "<", file)
    return file.getvalue()


def floats(value: float) -> bytes:
    data = np.full((SIZE[1], SIZE[0]), 0.5, np.float32)
    data[3, 3] = value
    return coded(Image.fromarray(data), "TIFF")


def adam7(image: Image.Image) -> bytes:
    """An interlaced RGB PNG file."""
    samples = np.asarray(image)
    rows = b""
    for top, left, down, right in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):  # fmt: skip
        part = samples[top::down, left::right]
        rows += b"".join(b"\0" + row.tobytes() for row in part)
    data = bytearray(bare_png(*image.size, rows))
    data[28] = 1  # interlaced; the header's checksum follows
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG file with one more segment at its beginning."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


# cut short

WHOLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG": ("odd.png", lambda: coded(picture(), "PNG")),
    "PNG of 16 bits": ("odd.png", deep_png),
    "JPEG": ("odd.jpg", lambda: coded(picture(), "JPEG")),
    "progressive JPEG": ("odd.jpg", lambda: coded(picture(), "JPEG", progressive=True)),
    "WebP": ("odd.webp", lambda: coded(picture(), "WEBP", lossless=True)),
    "TIFF": ("odd.tif", lambda: coded(picture(), "TIFF", compression="tiff_lzw")),
    "BMP": ("odd.bmp", lambda: coded(picture(), "BMP")),
}


def _cut(format: str, share: float) -> Maker:
    name, whole = WHOLE[format]

    def make(folder: Path) -> None:
        data = whole()
        put(folder, name, data[: int(len(data) * share)])

    return make


for _format in WHOLE:
    for _share, _where in ((0, "empty"), (0.02, "only its first bytes"), (0.5, "half of it")):
        odd("Cut short", f"{_format}, {_where}", "refused", "cannot read")(_cut(_format, _share))
    if _format != "JPEG" and _format != "progressive JPEG":
        _maker = _cut(_format, 0.98)
        odd("Cut short", f"{_format} without its last bytes", "refused", "cannot read")(_maker)


@odd("Cut short", "JPEG without its end marker", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.jpg", coded(picture(), "JPEG")[:-2])


@odd("Cut short", "TIFF without pages", "refused", "without pages")
def _(folder: Path) -> None:
    put(folder, "odd.tif", b"II*\0" + bytes(100))


@odd("Cut short", "TIFF whose directory lies beyond its end", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.tif", b"II*\0" + struct.pack("<I", 1 << 30) + bytes(100))


# damaged, or something else than it says

DAMAGED = "Damaged or mislabelled"


@odd(DAMAGED, "text named .jpg", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.jpg", b"this is no picture\n" * 9)


@odd(DAMAGED, "a web page named .png", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.png", b"<!doctype html><title>403 Forbidden</title>")


@odd(DAMAGED, "an archive named .tif", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.tif", b"PK\3\4" + bytes(200))


@odd(DAMAGED, "zeros named .webp", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.webp", bytes(4096))


@odd(DAMAGED, "PNG named .jpg", "restored", "the file holds PNG; the result is JPEG")
def _(folder: Path) -> None:
    put(folder, "odd.jpg", coded(picture(), "PNG"))


@odd(DAMAGED, "JPEG named .PNG", "restored", "the file holds JPEG; the result is PNG")
def _(folder: Path) -> None:
    put(folder, "odd.PNG", coded(picture(), "JPEG"))


@odd(DAMAGED, "a picture with an unknown ending, in a folder", "ignored")
def _(folder: Path) -> None:
    put(folder, "odd.xyz", coded(picture(), "PNG"))
    (folder / "odd_mask.png").unlink()


@odd(DAMAGED, "a picture with an unknown ending, named", "stops", "no picture format called .xyz")
def _(folder: Path) -> Words:
    return [put(folder, "odd.xyz", coded(picture(), "PNG"))]


@odd(DAMAGED, "PNG with a wrong checksum in its pixels", "refused", "damaged chunk IDAT")
def _(folder: Path) -> None:
    data = bytearray(coded(picture(), "PNG"))
    data[data.index(b"IDAT") + 40] ^= 1
    put(folder, "odd.png", bytes(data))


@odd(DAMAGED, "PNG with a wrong checksum in a comment", "refused", "damaged chunk tEXt")
def _(folder: Path) -> None:
    wrong = bytearray(chunk(b"tEXt", b"Comment\0hello"))
    wrong[-1] ^= 1
    put(folder, "odd.png", after_header(coded(picture(), "PNG"), bytes(wrong)))


@odd(DAMAGED, "PNG with fewer pixels than it says", "refused", "fewer pixels")
def _(folder: Path) -> None:
    put(folder, "odd.png", bare_png(*SIZE, bytes(3 * (1 + 3 * SIZE[0]))))


@odd(DAMAGED, "PNG of 0 pixels", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.png", bare_png(0, 5))


@odd(DAMAGED, "PNG of a colour type that is not", "refused", "cannot read")
def _(folder: Path) -> None:
    put(folder, "odd.png", bare_png(*SIZE, bytes(5000), type=5))


@odd(DAMAGED, "PNG that says 100,000 x 100,000 pixels", "refused", "too large")
def _(folder: Path) -> None:
    put(folder, "odd.png", bare_png(100_000, 100_000, bytes(1000)))


@odd(DAMAGED, "PNG of 16 bits that says 100,000 x 100,000 pixels", "refused", "too large")
def _(folder: Path) -> None:
    put(folder, "odd.png", bare_png(100_000, 100_000, bytes(1000), depth=16))


@odd(DAMAGED, "TIFF that says 60,000 x 60,000 pixels", "refused", "too large")
def _(folder: Path) -> None:
    data = page(np.asarray(picture("L"))[..., None], WIDTH=60_000, HEIGHT=60_000)
    put(folder, "odd.tif", data)


@odd(DAMAGED, "JPEG with a damaged EXIF block", "restored", "")
def _(folder: Path) -> None:
    wrong = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 900) + b"\xff" * 40
    put(folder, "odd.jpg", with_segment(coded(picture(), "JPEG"), 0xE1, wrong))


@odd(DAMAGED, "JPEG with an EXIF block of noise", "restored", "EXIF block is damaged")
def _(folder: Path) -> None:
    wrong = b"Exif\0\0" + np.random.default_rng(1).bytes(300)
    put(folder, "odd.jpg", with_segment(coded(picture(), "JPEG"), 0xE1, wrong))


@odd(DAMAGED, "PNG with an EXIF block of noise", "restored", "EXIF block is damaged")
def _(folder: Path) -> None:
    wrong = chunk(b"eXIf", np.random.default_rng(1).bytes(300))
    put(folder, "odd.png", after_header(coded(picture(), "PNG"), wrong))


@odd(DAMAGED, "PNG of 16 bits with an EXIF block of noise", "restored", "EXIF block is damaged")
def _(folder: Path) -> None:
    wrong = chunk(b"eXIf", np.random.default_rng(1).bytes(300))
    put(folder, "odd.png", after_header(deep_png(), wrong))


@odd(DAMAGED, "WebP with an EXIF block of noise", "restored", "EXIF block is damaged")
def _(folder: Path) -> None:
    exif = np.random.default_rng(1).bytes(300)
    put(folder, "odd.webp", coded(picture(), "WEBP", lossless=True, exif=exif))


@odd(DAMAGED, "EXIF orientation 99", "restored")
def _(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    put(folder, "odd.jpg", coded(picture(), "JPEG", exif=exif))


@odd(DAMAGED, "a colour profile of noise", "restored")
def _(folder: Path) -> None:
    profile = np.random.default_rng(2).bytes(500)
    put(folder, "odd.png", coded(picture(), "PNG", icc_profile=profile))


@odd(DAMAGED, "a profile chunk that does not unpack", "restored")
def _(folder: Path) -> None:
    wrong = chunk(b"iCCP", b"name\0\0" + bytes(50))
    put(folder, "odd.png", after_header(coded(picture(), "PNG"), wrong))


@odd(DAMAGED, "CMYK with a profile of noise", "restored", "no CMYK profile")
def _(folder: Path) -> None:
    profile = bytearray(np.random.default_rng(2).bytes(500))
    profile[16:20] = b"CMYK"
    put(folder, "odd.tif", coded(picture("CMYK"), "TIFF", icc_profile=bytes(profile)))


@odd(DAMAGED, "an EXIF resolution of 0/0", "restored")
def _(folder: Path) -> None:
    from PIL.TiffImagePlugin import IFDRational

    exif = Image.Exif()
    exif[tiff.X_RESOLUTION], exif[0x011B] = IFDRational(0, 0), IFDRational(0, 0)
    put(folder, "odd.jpg", coded(picture(), "JPEG", exif=exif))


@odd(DAMAGED, "a TIFF with tags of unknown types", "restored")
def _(folder: Path) -> None:
    made = tiff.encode_page(np.asarray(picture("L"))[..., None], "L", "<", False, None)
    made.entries[65000] = tiff.Entry(13, 1, bytes(4))
    file = io.BytesIO()
    tiff.write_directories([made], "<", file)
    put(folder, "odd.tif", file.getvalue())


# kinds of picture

KINDS = "Kinds of picture"


@odd(KINDS, "TIFF of floating-point numbers, one of them NaN", "refused", "floating-point")
def _(folder: Path) -> None:
    put(folder, "odd.tif", floats(float("nan")))


@odd(KINDS, "TIFF of floating-point numbers, one of them infinite", "refused", "floating-point")
def _(folder: Path) -> None:
    put(folder, "odd.tif", floats(float("inf")))


@odd(KINDS, "TIFF of 32-bit numbers", "refused", "32 bits")
def _(folder: Path) -> None:
    data = np.arange(SIZE[0] * SIZE[1], dtype=np.int32).reshape(SIZE[1], SIZE[0])
    put(folder, "odd.tif", coded(Image.fromarray(data), "TIFF"))


@odd(KINDS, "TIFF in Lab", "refused", "Lab colours")
def _(folder: Path) -> None:
    put(folder, "odd.tif", coded(picture("LAB"), "TIFF"))


@odd(KINDS, "BigTIFF", "refused", "BigTIFF")
def _(folder: Path) -> None:
    put(folder, "odd.tif", coded(picture(), "TIFF", big_tiff=True))


@odd(KINDS, "TIFF of three pages", "restored")
def _(folder: Path) -> None:
    more = [picture(seed=1), picture("L", (7, 5), 2)]
    put(folder, "odd.tif", coded(picture(), "TIFF", save_all=True, append_images=more))


@odd(KINDS, "TIFF with premultiplied alpha", "restored", "premultiplied alpha became plain")
def _(folder: Path) -> None:
    samples = np.asarray(picture("RGBA")).copy()
    samples[..., :3] = np.minimum(samples[..., :3], samples[..., 3:])
    made = tiff.encode_page(samples, "RGBA", "<", False, 1)
    file = io.BytesIO()
    tiff.write_directories([made], "<", file)
    put(folder, "odd.tif", file.getvalue())


@odd(KINDS, "animated GIF, in a folder", "ignored")
def _(folder: Path) -> None:
    frames = [picture("L", seed=s) for s in range(3)]
    data = coded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    put(folder, "odd.gif", data)
    (folder / "odd_mask.png").unlink()


@odd(KINDS, "animated GIF with --format png", "stops", "animation of 3 frames")
def _(folder: Path) -> Words:
    frames = [picture("L", seed=s) for s in range(3)]
    data = coded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return [put(folder, "odd.gif", data), "--format", "png"]


@odd(KINDS, "animated WebP", "refused", "animation of 3 frames")
def _(folder: Path) -> None:
    frames = [picture(seed=s) for s in range(3)]
    put(folder, "odd.webp", coded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))


@odd(KINDS, "animated PNG", "refused", "animation of 3 frames")
def _(folder: Path) -> None:
    frames = [picture(seed=s) for s in range(3)]
    put(folder, "odd.png", coded(frames[0], "PNG", save_all=True, append_images=frames[1:]))


@odd(KINDS, "CMYK JPEG with its profile", "restored")
def _(folder: Path) -> None:
    put(folder, "odd.jpg", coded(picture("CMYK"), "JPEG", icc_profile=cmyk_profile()))


@odd(KINDS, "progressive JPEG", "restored")
def _(folder: Path) -> None:
    put(folder, "odd.jpg", coded(picture(), "JPEG", progressive=True))


@odd(KINDS, "JPEG in arithmetic coding", "restored", "arithmetic coding")
def _(folder: Path) -> None:
    data = bytearray(coded(picture("L"), "JPEG"))
    data[data.index(b"\xff\xc0") + 1] = 0xC9  # any bits mean something to this coder
    put(folder, "odd.jpg", bytes(data))


@odd(KINDS, "JPEG with something behind its end", "restored", "what follows the picture")
def _(folder: Path) -> None:
    put(folder, "odd.jpg", coded(picture(), "JPEG") + b"a video" * 50)


@odd(KINDS, "interlaced PNG", "restored")
def _(folder: Path) -> None:
    put(folder, "odd.png", adam7(picture()))


@odd(KINDS, "PNG of 1 bit", "restored", "1-bit became L")
def _(folder: Path) -> None:
    put(folder, "odd.png", coded(picture("L").convert("1"), "PNG"))


@odd(KINDS, "palette with transparency", "restored", "palette became RGBA")
def _(folder: Path) -> None:
    image = picture("L").quantize(16)
    put(folder, "odd.png", coded(image, "PNG", transparency=bytes(range(0, 160, 10))))


@odd(KINDS, "PNG, grey of 16 bits", "restored")
def _(folder: Path) -> None:
    put(folder, "odd.png", deep_png(1))


@odd(KINDS, "1 x 1, no hole", "copied", "marks no hole")
def _(folder: Path) -> None:
    put(folder, "odd.png", coded(picture(size=(1, 1)), "PNG"), mask((1, 1), (0, 0, 0, 0)))


@odd(KINDS, "1 x 1, a hole", "refused", "whole picture")
def _(folder: Path) -> None:
    put(folder, "odd.png", coded(picture(size=(1, 1)), "PNG"), mask((1, 1), (0, 0, 1, 1)))


@odd(KINDS, "2 x 1, half of it a hole", "restored")
def _(folder: Path) -> None:
    put(folder, "odd.png", coded(picture(size=(2, 1)), "PNG"), mask((2, 1), (0, 0, 1, 1)))


@odd(KINDS, "1 x 40", "restored")
def _(folder: Path) -> None:
    put(folder, "odd.png", coded(picture(size=(1, 40)), "PNG"), mask((1, 40), (0, 10, 1, 20)))


@odd(KINDS, "30,000 pixels wide", "restored")
def _(folder: Path) -> None:
    size = (30_000, 3)
    put(folder, "odd.png", coded(picture(size=size), "PNG"), mask(size, (29_000, 1, 29_020, 2)))


@odd(KINDS, "30,000 pixels wide, as WebP", "stops", "cannot write")
def _(folder: Path) -> Words:
    size = (30_000, 2)
    hole = mask(size, (29_000, 1, 29_020, 2))
    image = put(folder, "odd.png", coded(picture(size=size), "PNG"), hole)
    return [image, "--format", "webp"]


@odd(KINDS, "AppleDouble file (._odd.png)", "ignored")
def _(folder: Path) -> None:
    (folder / "._odd.png").write_bytes(b"\0\5\x16\7" + bytes(100))


# names

NAMES = "Names"


def _named(stem: str | bytes, title: str, outcome: str = "restored", says: str = "") -> None:
    name = os.fsdecode(stem) + ".png"

    @odd(NAMES, title, outcome, says)
    def _(folder: Path) -> None:
        put(folder, name, coded(picture(), "PNG"))


_named("with some spaces ", "spaces, also at the end")
_named("two\nlines", "a newline")
_named("a\ttab \x1b[31mred\x07", "tab, escape sequence and bell")
_named('it\'s "quoted" `too` $HOME', "quotes and a dollar sign")
_named("-leading dash", "a leading dash")
_named("--output", "an option")
_named("фото 写真 صورة 📷", "non-Latin letters")
_named("e\u0301 and é", "combined and single accents")
_named(b"bad \xff\xfe bytes", "bytes that are no UTF-8")
_named("[a-z]*?{x}!", "brackets, stars, question marks")
_named("{} {0} %s %d \\1", "placeholders")
_named("CON", "a device name of Windows")
_named("a.b.c.", "many dots")
_named(".", "a dot, then .png", "ignored")
_named("x" * (255 - len("_mask.png")), "as long as a mask's name lets it be")
_named("é" * 123, "nearly as long, in two bytes a letter")


@odd(NAMES, "255 bytes, the longest there is", "restored")
def _(folder: Path) -> Words:
    image = folder / ("y" * 251 + ".png")
    image.write_bytes(coded(picture(), "PNG"))
    return [image, "-m", folder / "good_mask.png", "-o", folder.parent / "out"]


@odd(NAMES, "255 bytes, and _d2s would not fit behind", "stops", "too long")
def _(folder: Path) -> Words:
    image = folder / ("y" * 251 + ".png")
    image.write_bytes(coded(picture(), "PNG"))
    return [image, "-m", folder / "good_mask.png"]


@odd(NAMES, "longer than a name can be", "stops", "no picture or folder at")
def _(folder: Path) -> Words:
    return [folder / ("y" * 300 + ".png")]


@odd(NAMES, "a mask's name longer than a name can be", "stops", "no mask at")
def _(folder: Path) -> Words:
    return [folder / "good.png", "-m", folder / ("y" * 300 + ".png")]


@odd(NAMES, "a picture that is called like a mask", "restored")
def _(folder: Path) -> None:
    put(folder, "my_mask.png", coded(picture(), "PNG"))


@odd(NAMES, "one stem, two endings, one mask", "restored")
def _(folder: Path) -> None:
    put(folder, "odd.png", coded(picture(), "PNG"))
    put(folder, "odd.jpg", coded(picture(seed=1), "JPEG"))


@odd(NAMES, "one stem, two endings, one --format", "stops", "two results have one name")
def _(folder: Path) -> Words:
    put(folder, "odd.png", coded(picture(), "PNG"))
    put(folder, "odd.jpg", coded(picture(seed=1), "JPEG"))
    return [folder, "--format", "tiff"]
