"""The hole over its picture: as a picture, and as coarse text for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import InputError
from d2s_cli.images.drawings import write_drawing
from d2s_cli.images.finding import find_masks, no_mask
from d2s_cli.images.formats import format_of
from d2s_cli.images.masks import Hole, Mask, MaskSettings, read_mask
from d2s_cli.images.pairing import refuse_existing
from d2s_cli.images.photo import Photo
from d2s_cli.images.reading import read_photo

#: colour laid over the hole, and how much of it
HOLE_COLOR = (255, 0, 90)
HOLE_OPACITY = 0.55
#: from dark to bright
RAMP = " .:-=+*"
HOLE_SIGN = "#"
#: a character cell is about twice as high as wide
CELL_HEIGHT = 2


def photo_and_mask(image: Path, mask: Path | None, settings: MaskSettings) -> tuple[Photo, Mask]:
    """One picture and its one mask, found as `inpaint` finds it.

    Raises:
        InputError: unreadable, of different sizes, no mask or more than one.
    """
    photo = read_photo(image)
    masks = find_masks(image, mask, None, settings.source, settings.names)
    if not masks:
        raise no_mask(image, mask, settings.names)
    if len(masks) > 1:
        raise InputError(
            f"more than one mask for {image}: {', '.join(map(str, masks))}",
            f"try: --mask {masks[0]}",
        )
    return photo, read_mask(masks[0], photo, settings)


def write_preview(photo: Photo, hole: Hole, path: Path, force: bool = False) -> None:
    """Write the overlay; InputError if the file exists already and `force` is not given."""
    format_of(path)
    refuse_existing([path], force, [photo.path])
    write_drawing(overlay(photo.rgb, hole), path)


def to_8_bit(rgb: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 as it is; uint16 reduced."""
    return rgb.astype(np.uint8) if rgb.dtype == np.uint8 else (rgb // 257).astype(np.uint8)


def overlay(rgb: NDArray[Any], hole: Hole) -> NDArray[np.uint8]:
    """The picture with a tinted hole that has a white edge, H x W x 3."""
    shown = to_8_bit(rgb).astype(np.float32)
    tint = np.array(HOLE_COLOR, np.float32)
    shown[hole] = shown[hole] * (1 - HOLE_OPACITY) + tint * HOLE_OPACITY
    width = 1 + max(hole.shape) // 800
    disc = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    edge = hole & (cv2.erode(hole.astype(np.uint8), disc, borderValue=1) == 0)
    shown[edge] = 255
    return shown.round().astype(np.uint8)


def as_text(rgb: NDArray[Any], hole: Hole, columns: int, color: bool) -> str:
    """Lines of at most `columns` characters: two pixels a cell in colour, else signs.

    A cell is hole if any part of it is, so that thin scratches are seen.
    """
    height, width = hole.shape
    columns = max(1, min(columns, width))
    rows = max(1, round(height * columns / width / CELL_HEIGHT))
    if color:
        tinted = overlay(rgb, hole)
        cells = _reduced(tinted, 2 * rows, columns).round().astype(int)
        return "\n".join(_colored_line(cells[2 * r], cells[2 * r + 1]) for r in range(rows))
    bright = _reduced(to_8_bit(rgb).mean(axis=2), rows, columns)
    marked = _reduced(hole.astype(np.float32), rows, columns) > 0
    steps = (bright / 256 * len(RAMP)).astype(int).clip(0, len(RAMP) - 1)
    signs = np.where(marked, HOLE_SIGN, np.array(list(RAMP))[steps])
    return "\n".join("".join(line) for line in signs)


def _reduced(picture: NDArray[Any], rows: int, columns: int) -> NDArray[np.float32]:
    small = cv2.resize(picture.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _colored_line(upper: NDArray[Any], lower: NDArray[Any]) -> str:
    """One line of half blocks: the upper pixel is the foreground, the lower the background."""
    cells = [
        f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
        for a, b in zip(upper, lower, strict=True)
    ]
    return "".join(cells) + "\x1b[0m"
