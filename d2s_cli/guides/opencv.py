"""Telea's and the Navier-Stokes fill from OpenCV: no weights, fast, smooth."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.guides.contract import PictureGuide

METHODS = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}
#: radius in pixels of the neighbourhood that one pixel is made from
RADIUS = 3.0


def opencv_fill(picture: NDArray[Any], hole: NDArray[np.bool_], method: str) -> NDArray[Any]:
    """Fill with "telea" or "ns": uint8 H x W x 3 and bool H x W to uint8 H x W x 3."""
    filled = cv2.inpaint(picture, hole.astype(np.uint8), RADIUS, METHODS[method])
    return np.asarray(filled)


def opencv_guide(method: str) -> PictureGuide:
    return PictureGuide(method, lambda picture, hole, seed: opencv_fill(picture, hole, method))
