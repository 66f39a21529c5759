"""No more colour detail in a fill than round it: speckle that a small refiner leaves behind."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.images.texture import MARGIN, PATCH, REACH, erode, surroundings

#: what is finer than a Gaussian of this deviation counts as detail, pixels
FINE = 4.0
#: variance of 8-bit rounding, levels squared
FLOOR = 0.05


def calm_colour(picture: NDArray[Any], hole: NDArray[np.bool_]) -> NDArray[Any]:
    """Weaken a fill's colour detail to the strength that it has in the surroundings.

    Grey levels stay as they are, and so do colours that change slowly.

    Args:
        picture: filled picture, H x W x 3, uint8 or uint16.
        hole: H x W, True where it was filled; other pixels stay.

    Returns:
        Like `picture`.
    """
    around = surroundings(hole, REACH)
    if not around.any():
        return picture
    scale = np.iinfo(picture.dtype).max / 255
    levels = picture.astype(np.float32) / scale
    colour = levels - levels.mean(axis=2, keepdims=True)
    detail = colour - cv2.GaussianBlur(colour, (0, 0), FINE)
    variance = cv2.blur(np.square(detail).sum(axis=2), (PATCH, PATCH)) + FLOOR
    wanted, found = np.median(variance[around]), np.median(variance[erode(hole, MARGIN)])
    if found <= wanted:
        return picture
    calm = levels - (1 - float(wanted / found) ** 0.5) * detail
    calmed = np.rint(calm.clip(0, 255) * scale).astype(picture.dtype)
    return np.where(hole[..., None], calmed, picture)
