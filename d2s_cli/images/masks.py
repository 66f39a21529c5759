"""Mask files to holes: polarity, threshold, size and orientation are settled here, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2s_cli.errors import InputError
from d2s_cli.images.photo import Photo, upright
from d2s_cli.images.reading import READ_ERRORS

POLARITIES = ("white", "black")
#: above this share of hole, a mask that also covers most of the border is probably inverted
SUSPICIOUS_SHARE = 0.6


@dataclass(frozen=True)
class MaskSettings:
    """How a mask file is read.

    Attributes:
        polarity: which side is the hole, "white" or "black".
        threshold: grey level, 0 to 1, from which a pixel is white.
        grow: pixels to grow the hole by; negative shrinks it.
    """

    polarity: str = "white"
    threshold: float = 0.5
    grow: int = 0


@dataclass
class Mask:
    """Upright bool hole, True where pixels are made, and what is odd about it."""

    hole: NDArray[np.bool_]
    warnings: list[str] = field(default_factory=list)


def read_mask(path: Path, photo: Photo, settings: MaskSettings | None = None) -> Mask:
    """Read the mask of a photo.

    A mask drawn on the upright picture fits it directly; one made for the stored pixels of a
    rotated photo is turned. Anything else is an error, since stretching would move the hole.

    Raises:
        InputError: missing, unreadable, or of another size.
    """
    settings = settings or MaskSettings()
    if not path.exists():
        raise InputError(f"no mask at {path}", "try: --mask FILE, white where pixels are missing")
    try:
        with Image.open(path) as file:
            file.load()
            grey = _grey(file)
    except READ_ERRORS as error:
        raise InputError(f"cannot read mask {path}: {error}") from error
    hole = _fit(grey, photo, path) >= settings.threshold
    if settings.polarity == "black":
        hole = ~hole
    hole = grow_hole(hole, settings.grow)
    return Mask(hole, _oddities(hole, path, settings))


def _grey(file: Image.Image) -> NDArray[np.float32]:
    """0 to 1. An alpha channel does not count, unless the picture is nothing but alpha."""
    if file.mode.startswith("I"):
        deep = np.asarray(file).astype(np.float32)
        return deep / (65535.0 if deep.max(initial=0) > 255 else 255.0)
    if file.mode == "F":
        return np.asarray(file, np.float32)
    has_alpha = "A" in file.getbands() or "transparency" in file.info
    flat = file.convert("RGBA").convert("RGB") if has_alpha else file
    return np.asarray(flat.convert("L"), np.float32) / 255.0


def _fit(grey: NDArray[np.float32], photo: Photo, path: Path) -> NDArray[np.float32]:
    width, height = photo.size
    if grey.shape == (height, width):
        return grey
    if photo.orientation != 1 and grey.shape == (width, height):
        return np.ascontiguousarray(upright(grey, photo.orientation))
    raise InputError(
        f"mask and image differ in size: {photo.path} is {width}x{height},"
        f" {path} is {grey.shape[1]}x{grey.shape[0]}",
        "make the mask at the picture's own size; d2s does not stretch it, since that would move"
        " the hole",
    )


def grow_hole(hole: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Grow (or shrink, if negative) by a disc of that radius."""
    if pixels == 0:
        return hole
    radius = abs(pixels)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    operation = cv2.dilate if pixels > 0 else cv2.erode
    return np.asarray(operation(hole.astype(np.uint8), disc)).astype(bool)


def _oddities(hole: NDArray[np.bool_], path: Path, settings: MaskSettings) -> list[str]:
    share = float(hole.mean())
    if share == 0:
        return [f"{path} marks no hole; the picture is copied"]
    border = np.concatenate([hole[0], hole[-1], hole[:, 0], hole[:, -1]]).mean()
    if share > SUSPICIOUS_SHARE and border > 0.5:
        other = "black" if settings.polarity == "white" else "white"
        return [
            f"{path} marks {share:.1%} of the picture and {border:.0%} of its border as hole;"
            f" is it inverted? try: --polarity {other}"
        ]
    return []
