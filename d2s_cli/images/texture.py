"""How much fine texture a fill lacks, compared with what surrounds it."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: what is finer than a Gaussian of this deviation counts as texture, pixels
FINE = 2.0
#: texture is measured in neighbourhoods of this side, so that one strong edge does not stand for a
#: whole region
PATCH = 9
#: known pixels up to this far from the hole are its surroundings
REACH = 24
#: pixels this close to the hole's edge mix fill and surroundings and count for neither
MARGIN = 3


def missing_texture(picture: NDArray[Any], hole: NDArray[np.bool_]) -> float:
    """Standard deviation of the texture that a fill would need to look like its surroundings.

    The square root of the difference of two variances: median local variance of the fine detail
    round the hole, and inside it. Flat surroundings, or a fill as rich as they are, give 0.

    Args:
        picture: filled picture, H x W x 3, uint8 or uint16.
        hole: H x W, True where it was filled.

    Returns:
        8-bit levels, 0 or above.
    """
    levels = picture.astype(np.float32) * (255 / np.iinfo(picture.dtype).max)
    grey = levels.mean(axis=2)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), FINE)
    variance = cv2.blur(detail**2, (PATCH, PATCH))
    inside = erode(hole, MARGIN)
    around = surroundings(hole, REACH)
    if not around.any():
        around = ~hole
    if not around.any():
        return 0.0
    lacking = float(np.median(variance[around]) - np.median(variance[inside]))
    return math.sqrt(max(lacking, 0.0))


def surroundings(hole: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Known pixels up to `reach` from the hole, without those at its edge."""
    return _dilate(hole, reach) & ~_dilate(hole, MARGIN)


def erode(hole: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The hole without its edge, or all of it if it is thinner than that."""
    eroded = cv2.erode(hole.astype(np.uint8), _disc(radius)).astype(bool)
    return eroded if eroded.any() else hole


def _dilate(hole: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    return cv2.dilate(hole.astype(np.uint8), _disc(radius)).astype(bool)


def _disc(radius: int) -> NDArray[np.uint8]:
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
