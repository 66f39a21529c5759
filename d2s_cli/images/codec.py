"""Picture files to arrays and back. What comes in goes out: only hole pixels differ.

Pixels are handled upright (EXIF orientation applied) and written back as they were stored, with
the orientation flag kept. Writing is atomic: a file appears under its name only when whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from d2s_cli.errors import InputError

#: formats by file name ending; the value is Pillow's name
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
LOSSLESS = frozenset({"PNG", "TIFF", "BMP"})
ORIENTATION_TAG = 0x0112
#: what undoes each EXIF orientation that is not upright
_TO_STORED = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_90,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_270,),
}
READ_ERRORS = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)


@dataclass
class Photo:
    """One picture in memory.

    Attributes:
        path: where it came from.
        rgb: upright H x W x 3, uint8 or uint16.
        stored: the picture as its file holds it (Pillow's, or cv2's array for 16-bit colour).
        orientation: EXIF value, 1 for upright.
        notes: what could not be kept, for the report.
    """

    path: Path
    rgb: NDArray[Any]
    stored: Image.Image | NDArray[Any]
    orientation: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Upright width and height."""
        return self.rgb.shape[1], self.rgb.shape[0]


def read_photo(path: Path) -> Photo:
    """Read a picture.

    Raises:
        InputError: missing, unreadable or truncated.
    """
    if not path.exists():
        raise InputError(f"no picture at {path}")
    try:
        if _is_deep_colour(path):
            return _read_deep(path)
        with Image.open(path) as file:
            file.load()
            orientation = int(file.getexif().get(ORIENTATION_TAG, 1))
            orientation = orientation if orientation in _TO_STORED else 1
            stored = file.copy()
            stored.format = file.format
            stored.info = dict(file.info)
            if hasattr(file, "quantization"):
                stored.quantization = file.quantization  # type: ignore[attr-defined]
    except READ_ERRORS as error:
        raise InputError(f"cannot read {path}: {error}") from error
    upright = ImageOps.exif_transpose(stored)
    return Photo(path, _to_rgb(upright), stored, orientation)


def _to_rgb(picture: Image.Image) -> NDArray[Any]:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        grey = np.asarray(picture).astype(np.uint16)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def _is_deep_colour(path: Path) -> bool:
    """True for PNG files with 16 bits a channel in colour, which Pillow would cut to 8."""
    with open(path, "rb") as file:
        head = file.read(26)
    is_png = head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 26
    return is_png and head[24] == 16 and head[25] in (2, 6)


def _read_deep(path: Path) -> Photo:
    stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise InputError(f"cannot read {path}: damaged 16-bit PNG")
    rgb = np.ascontiguousarray(stored[..., 2::-1])
    notes = ["16-bit colour is kept; text and colour profile of this file are not"]
    return Photo(path, rgb, stored, 1, notes)


def fill_hole(photo: Photo, result: NDArray[Any], hole: NDArray[np.bool_]) -> Any:
    """The stored picture with hole pixels taken from `result`.

    Args:
        photo: as read.
        result: upright H x W x 3, of the type of `photo.rgb`.
        hole: upright H x W.

    Returns:
        A Pillow image in the stored orientation (or a cv2 array for 16-bit colour), in the stored
        mode where that mode can hold the colours, else RGB; alpha is kept and opaque in the hole.
    """
    if isinstance(photo.stored, np.ndarray):
        filled = photo.stored.copy()
        filled[..., :3][hole] = result[..., ::-1][hole]
        if filled.shape[2] == 4:
            filled[..., 3][hole] = 65535
        return filled
    stored = photo.stored
    mask = Image.fromarray(hole.astype(np.uint8) * 255)
    if stored.mode.startswith("I"):
        grey = Image.fromarray(result.mean(axis=2).round().astype(np.uint16))
        base = Image.fromarray(np.asarray(stored).astype(np.uint16))
        patch, mask = (_to_stored(i, photo.orientation) for i in (grey, mask))
        merged = np.where(np.asarray(mask) > 0, np.asarray(patch), np.asarray(base))
        return _like(Image.fromarray(merged.astype(np.uint16)), stored)
    patch = _to_stored(Image.fromarray(result), photo.orientation)
    mask = _to_stored(mask, photo.orientation)
    base = stored.copy()
    if stored.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        has_alpha = "A" in stored.getbands() or "transparency" in stored.info
        base = stored.convert("RGBA" if has_alpha else "RGB")
        photo.notes.append(f"mode {stored.mode} became {base.mode}; colours are the same")
    patch = patch.convert(base.mode)
    base.paste(patch, (0, 0), mask)
    return _like(base, stored)


def _like(picture: Image.Image, stored: Image.Image) -> Image.Image:
    picture.info = {k: v for k, v in stored.info.items() if k != "transparency"}
    picture.format = stored.format
    if hasattr(stored, "quantization"):
        picture.quantization = stored.quantization  # type: ignore[attr-defined]
    return picture


def _to_stored(picture: Image.Image, orientation: int) -> Image.Image:
    for step in _TO_STORED.get(orientation, ()):
        picture = picture.transpose(step)
    return picture


def format_of(path: Path) -> str:
    """Pillow's format name for a file name; InputError if it has no known ending."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(
            f"cannot tell a picture format from the name {path.name}",
            f"use one of: {' '.join(FORMATS)}",
        ) from None


def write_photo(picture: Any, path: Path, quality: int | None = None) -> None:
    """Write atomically in the format of the name's ending.

    Args:
        picture: what `fill_hole` gave.
        path: target; its folder is made.
        quality: 1 to 100 for JPEG and WebP; None keeps a JPEG source's tables, and writes WebP
            without loss.

    Raises:
        InputError: the file cannot be written (disk full, no permission); nothing is left behind.
    """
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    name = format_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, np.ndarray):
            _write_deep(picture, partial)
        else:
            picture = _fit_mode(picture, name)
            picture.save(partial, format=name, **_save_options(picture, name, quality))
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_deep(picture: NDArray[Any], path: Path) -> None:
    ok, data = cv2.imencode(path.suffix, picture)
    if not ok:
        raise OSError(f"16-bit colour cannot be written as {path.suffix}")
    path.write_bytes(data.tobytes())


def _fit_mode(picture: Image.Image, name: str) -> Image.Image:
    """JPEG has no alpha, WebP no grey or CMYK."""
    allowed = {"JPEG": ("L", "RGB", "CMYK"), "WEBP": ("RGB", "RGBA"), "BMP": ("L", "RGB")}
    if name not in allowed or picture.mode in allowed[name]:
        return picture
    mode = "RGBA" if name == "WEBP" and "A" in picture.getbands() else "RGB"
    return _like(picture.convert(mode), picture)


def _save_options(picture: Image.Image, name: str, quality: int | None) -> dict[str, Any]:
    info = picture.info
    options = {k: info[k] for k in ("exif", "icc_profile", "dpi") if info.get(k)}
    if name == "JPEG":
        tables = getattr(picture, "quantization", None)
        if quality is None and picture.format == "JPEG" and tables:
            options.update(qtables=tables, subsampling=info.get("subsampling", -1))
        else:
            options.update(quality=quality or 95, subsampling=0)
    elif name == "WEBP":
        options.update({"quality": quality} if quality else {"lossless": True, "exact": True})
    elif name == "PNG":
        options.update(compress_level=4)
    elif name == "TIFF":
        options.update(compression=info.get("compression", "tiff_lzw"))
    if name == "BMP":
        options.pop("icc_profile", None), options.pop("exif", None)
    return options


def changed_known_pixels(photo: Photo, hole: NDArray[np.bool_], path: Path) -> tuple[int, int]:
    """Read a written file back: how many known pixels differ, and by how many levels at most."""
    again = read_photo(path).rgb
    difference = np.abs(again.astype(np.int32) - photo.rgb.astype(np.int32)).max(axis=2)
    difference[hole] = 0
    return int((difference > 0).sum()), int(difference.max(initial=0))
