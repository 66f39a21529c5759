"""Filled photos to files: only hole pixels differ from the source.

Writing is atomic: a file appears under its name only when whole. The result is read back, and known
pixels that differ are counted on the samples as stored, alpha and CMYK included.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import InputError
from d2s_cli.images import jpeg_segments as jpeg
from d2s_cli.images import png_chunks as png
from d2s_cli.images import tiff_directory as tiff
from d2s_cli.images.colour import (
    colours,
    convert,
    from_rgb,
    has_alpha,
    picture_of,
    with_alpha,
)
from d2s_cli.images.formats import FORMATS, format_of
from d2s_cli.images.metadata import Metadata, allowed, has_thumbnail, left_behind, page_from
from d2s_cli.images.photo import Photo, TiffCoding, as_stored
from d2s_cli.images.reading import read_photo
from d2s_cli.images.whole_files import whole_file

#: kinds of picture that a format holds, and what becomes of the others
_KINDS = {
    "PNG": {"CMYK": "RGB"},
    "TIFF": {},
    "JPEG": {"LA": "L", "RGBA": "RGB"},
    "WEBP": {"L": "RGB", "LA": "RGBA", "CMYK": "RGB"},
    "BMP": {"LA": "L", "RGBA": "RGB", "CMYK": "RGB"},
}
#: formats that hold 16 bits
_DEEP = frozenset({"PNG", "TIFF"})
#: of JPEG, where the source's tables do not serve
_QUALITY = 95
#: samples that are compared at a time
_BLOCK = 1 << 24


@dataclass(frozen=True)
class WriteSettings:
    """How results are written.

    Attributes:
        quality: 1 to 100 for JPEG and WebP; None keeps a JPEG source's tables, and writes WebP
            without loss.
        metadata: keep, private or drop.
    """

    quality: int | None = None
    metadata: str = "keep"


@dataclass(frozen=True)
class Change:
    """How known pixels of a result differ from the source.

    Attributes:
        count: pixels with a difference in any channel.
        largest: in levels of the result (255 or 65535 is full).
        mean: of all known samples, in the same levels.
    """

    count: int
    largest: int
    mean: float


def fill_hole(photo: Photo, result: NDArray[Any], hole: NDArray[np.bool_]) -> NDArray[Any]:
    """The photo's samples with hole pixels taken from `result`, opaque there.

    Args:
        photo: as read.
        result: upright H x W x 3, of the type of `photo.rgb`.
        hole: upright H x W.

    Returns:
        Stored (not turned) H x W x C of the photo's kind and type.
    """
    filled = photo.samples.copy()
    places = as_stored(hole, photo.orientation)
    pixels = as_stored(result, photo.orientation)[places]
    filled[places] = from_rgb(pixels, photo.kind, photo.metadata.icc)
    return filled


def write_photo(
    photo: Photo, samples: NDArray[Any], path: Path, settings: WriteSettings | None = None
) -> None:
    """Write atomically in the format of the name's ending; the photo notes what is not kept.

    Args:
        photo: the source.
        samples: what `fill_hole` gave.
        path: target; its folder is made.
        settings: quality and metadata.

    Raises:
        InputError: the file cannot be written (disk full, no permission); nothing is left behind,
            and a file that was there stays as it was.
    """
    settings = settings or WriteSettings()
    name = format_of(path)
    fitted = _fitted(photo, samples, name)
    metadata = _metadata_for(photo, name, settings.metadata)
    picture = _Picture(photo, fitted, _kind_for(photo, name), metadata, settings.quality)
    with whole_file(path) as file:
        _WRITERS[name](picture, file)


def copy_photo(photo: Photo, path: Path) -> None:
    """Copy the file as it is: nothing was to fill; InputError if it cannot be written."""
    with whole_file(path) as file, open(photo.path, "rb") as source:
        shutil.copyfileobj(source, file)


def _kind_for(photo: Photo, name: str) -> str:
    if name == "TIFF" and photo.kind == "LA" and photo.samples.dtype == np.uint16:
        return "RGBA"  # few programs read grey with alpha and 16 bits from TIFF
    return _KINDS[name].get(photo.kind, photo.kind)


def _fitted(photo: Photo, samples: NDArray[Any], name: str) -> NDArray[Any]:
    """Samples as a format can hold them; the photo notes what that changes."""
    kind = _kind_for(photo, name)
    dtype = samples.dtype if name in _DEEP else np.dtype(np.uint8)
    if has_alpha(photo.kind) and not has_alpha(kind):
        photo.note(f"{name} holds no alpha: it is not kept")
    if colours(kind) != colours(photo.kind):
        grey = colours(photo.kind) == 1
        how = "values are the same" if grey else "colours are converted"
        photo.note(f"{photo.kind} became {kind} in {name}; {how}")
    if dtype != samples.dtype:
        photo.note(f"{name} holds 8 bits: 16-bit levels are rounded")
    return convert(samples, photo.kind, kind, dtype, photo.metadata.icc)


def _metadata_for(photo: Photo, name: str, policy: str) -> Metadata:
    """What goes into a file of this format; the photo notes what does not."""
    if policy == "keep":
        for text in left_behind(photo.metadata, photo.format, name):
            photo.note(text)
    if name != photo.format and FORMATS.get(photo.path.suffix.lower()) == name:
        photo.note(f"the file holds {photo.format}; the result is {name}, as the name says")
    if policy == "keep" and name not in ("TIFF", "BMP") and has_thumbnail(photo.metadata):
        photo.note("the EXIF thumbnail still shows the picture as it was (--metadata private)")
    if name != photo.format and photo.metadata.more_pages:
        pages = len(photo.metadata.more_pages) + 1
        photo.note(f"{name} holds one picture: only the first of {pages} pages is kept")
    return allowed(photo.metadata, policy, photo.orientation)


@dataclass(frozen=True)
class _Picture:
    """What a format's writer gets."""

    photo: Photo
    samples: NDArray[Any]
    kind: str
    metadata: Metadata
    quality: int | None

    def profile(self) -> bytes:
        """The colour profile, if it is one for this kind of picture."""
        space = {1: b"GRAY", 3: b"RGB ", 4: b"CMYK"}[colours(self.kind)]
        icc = self.metadata.icc
        if icc and icc[16:20] != space:
            self.photo.note(f"a profile for {icc[16:20].decode('latin-1').strip()} is not kept")
            return b""
        return icc


def _write_png(picture: _Picture, file: BinaryIO) -> None:
    found = picture.metadata
    chunks = found.chunks
    if picture.photo.format != "PNG":
        chunks = png.build(found.exif, picture.profile(), found.xmp, found.dpi)
    if picture.samples.dtype == np.uint16:
        png.write_deep(picture.samples, chunks, file)
        return
    coded = io.BytesIO()
    picture_of(picture.samples, picture.kind).save(coded, "PNG", compress_level=4)
    png.splice(coded.getbuffer(), chunks, file)


def _write_jpeg(picture: _Picture, file: BinaryIO) -> None:
    found = picture.metadata
    segments = found.segments
    if picture.photo.format != "JPEG":
        segments = jpeg.build(found.exif, picture.profile(), found.xmp)
    coding = picture.photo.jpeg
    options: dict[str, Any] = {"subsampling": 0, "quality": picture.quality or _QUALITY}
    if coding:
        options = {
            "subsampling": max(coding.subsampling, 0),
            "progressive": coding.progressive,
            "keep_rgb": coding.keep_rgb,
        }
        by_tables = {"qtables": coding.tables}
        options |= by_tables if picture.quality is None else {"quality": picture.quality}
    if found.dpi:
        options["dpi"] = found.dpi
    coded = io.BytesIO()
    picture_of(picture.samples, picture.kind).save(coded, "JPEG", **options)
    jpeg.splice(coded.getvalue(), segments, file)


def _write_webp(picture: _Picture, file: BinaryIO) -> None:
    found, quality = picture.metadata, picture.quality
    options: dict[str, Any] = {"lossless": True, "exact": True}
    if quality is not None:
        options = {"quality": quality}
    elif picture.photo.lossy_webp:
        picture.photo.note("lossy WebP is written without loss, which is larger (see --quality)")
    if found.dpi and picture.photo.format != "WEBP":
        picture.photo.note("WEBP holds no resolution besides that in EXIF")
    picture_of(picture.samples, picture.kind).save(
        file, "WEBP", exif=found.exif, icc_profile=picture.profile(), xmp=found.xmp, **options
    )


def _write_tiff(picture: _Picture, file: BinaryIO) -> None:
    found, photo = picture.metadata, picture.photo
    page = found.page
    if photo.format != "TIFF":
        page = page_from(found, photo.orientation)
        page.entries.pop(tiff.ICC, None)
        if icc := picture.profile():
            page.entries[tiff.ICC] = tiff.Entry(tiff.UNDEFINED, len(icc), icc)
    coding = photo.tiff or TiffCoding("<", compressed=True, extra=2)
    extra = coding.extra if has_alpha(picture.kind) else None
    coded = tiff.encode_page(picture.samples, picture.kind, coding.order, coding.compressed, extra)
    entries = page.entries | coded.entries
    more_pages = found.more_pages if photo.tiff else []
    first = tiff.Directory(entries, page.children, coded.blocks)
    tiff.write_directories([first, *more_pages], coding.order, file)


def _write_bmp(picture: _Picture, file: BinaryIO) -> None:
    found = picture.metadata
    if found.exif or found.icc or found.xmp:
        picture.photo.note("BMP holds no EXIF, profile or XMP")
    options = {"dpi": found.dpi} if found.dpi else {}
    picture_of(picture.samples, picture.kind).save(file, "BMP", **options)


_WRITERS: dict[str, Callable[[_Picture, BinaryIO], None]] = {
    "PNG": _write_png,
    "JPEG": _write_jpeg,
    "WEBP": _write_webp,
    "TIFF": _write_tiff,
    "BMP": _write_bmp,
}


def changed_known_pixels(photo: Photo, hole: NDArray[np.bool_], path: Path) -> Change:
    """Read a written file back and compare its known samples with the source's.

    Where the format could not hold the source's kind of picture, with what that became.

    Args:
        photo: the source.
        hole: upright H x W.
        path: the result.

    Raises:
        InputError: the result cannot be read, or is another kind of picture.
    """
    expected = _fitted(photo, photo.samples, format_of(path))
    written = read_photo(path)
    found = written.samples
    if has_alpha(_kind_for(photo, format_of(path))) and not has_alpha(written.kind):
        found = with_alpha(found)  # WebP leaves out alpha that is opaque everywhere
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise InputError(
            f"{path} does not read back as it was written",
            "this is a mistake in d2s: please report it with the picture",
        )
    return _compare(expected, found, as_stored(~hole, photo.orientation))


def _compare(expected: NDArray[Any], found: NDArray[Any], known: NDArray[np.bool_]) -> Change:
    """Differences of two H x W x C pictures where `known`, a few rows at a time."""
    count, largest, total = 0, 0, 0
    rows = max(1, _BLOCK // (expected.shape[1] * expected.shape[2]))
    for top in range(0, len(expected), rows):
        view = np.s_[top : top + rows]
        difference = np.asarray(cv2.absdiff(expected[view], found[view]))
        difference = difference.reshape(expected[view].shape)
        difference[~known[view]] = 0
        # one channel after the other: numpy is slow along a short axis
        changed = reduce(np.bitwise_or, np.moveaxis(difference, 2, 0))
        count += int(np.count_nonzero(changed))
        largest = max(largest, int(difference.max(initial=0)))
        total += int(difference.sum(dtype=np.int64))
    samples = int(np.count_nonzero(known)) * expected.shape[2]
    return Change(count, largest, total / samples if samples else 0.0)
