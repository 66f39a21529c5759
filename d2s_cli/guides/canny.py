"""Canny's edges as scikit-image finds them, to the last pixel.

EdgeConnect's networks were trained on these edges, and other Cannys (OpenCV's) give other ones. The
steps follow scikit-image 0.14 to 0.26 (`skimage.feature.canny` with its defaults, which agree) down
to the order of the sums, since one edge pixel hangs on comparing numbers that differ in the last
digit. Known are only the pixels of a mask: hidden ones are left out of the smoothing, and no edge
is found beside them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: gradients below this are no edge (the published code compares with a 32-bit number) ...
LOW = float(np.float32(0.1))
#: ... and an edge needs one of this somewhere
HIGH = 0.2


def canny(grey: Numbers, known: Mask, sigma: float = 2.0) -> Mask:
    """Edges of the known part of a picture.

    Args:
        grey: H x W in [0, 1]; what is not known does not matter.
        known: H x W, True where a pixel counts.
        sigma: of the Gaussian that smooths first.

    Returns:
        H x W, True on edges, which are a pixel wide.
    """
    share = _smooth(known.astype(np.float64), sigma) + np.finfo(np.float64).eps
    smooth = _smooth(np.where(known, grey, 0.0), sigma) / share
    down, right = _sobel(smooth, 0), _sobel(smooth, 1)
    size = np.sqrt(down * down + right * right)
    ridge = _on_ridge(down, right, size) & _inner(known) & (size >= LOW)
    count, labels = cv2.connectedComponents(ridge.astype(np.uint8), connectivity=8)
    strong = np.zeros(count, bool)
    strong[labels[ridge & (size >= HIGH)]] = True
    edges: Mask = strong[labels] & ridge
    return edges


def _smooth(x: Numbers, sigma: float) -> Numbers:
    """Gaussian, cut off at 4 sigma, zeros around the picture."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        x = _correlate(x, weights, axis, "constant")
    return x


def _sobel(x: Numbers, axis: int) -> Numbers:
    """Differences along an axis, smoothed across it, the edge row repeated around the picture."""
    slope = _correlate(x, np.array([-1.0, 0.0, 1.0]), axis, "symmetric")
    return _correlate(slope, np.array([1.0, 2.0, 1.0]), 1 - axis, "symmetric")


def _correlate(x: Numbers, weights: Numbers, axis: int, mode: Any) -> Numbers:
    """Sums of a row of neighbours by (anti)symmetric weights: the middle first, then pairs from
    the outside in."""
    radius = len(weights) // 2
    margins = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
    padded = np.moveaxis(np.pad(x, margins, mode=mode), axis, 0)
    length = x.shape[axis]

    def shifted(by: int) -> Numbers:
        return padded[radius + by : radius + by + length]

    sign = 1.0 if weights[0] == weights[-1] else -1.0
    total = shifted(0) * weights[radius]
    for offset in range(radius, 0, -1):
        pair = shifted(-offset) + sign * shifted(offset)
        total = total + pair * weights[radius - offset]
    return np.ascontiguousarray(np.moveaxis(total, 0, axis))


def _inner(known: Mask) -> Mask:
    """Known pixels all of whose eight neighbours are known and in the picture."""
    padded = np.pad(known, 1)
    height, width = known.shape
    parts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    inner: Mask = np.logical_and.reduce(parts)
    return inner


def _on_ridge(down: Numbers, right: Numbers, size: Numbers) -> Mask:
    """Where the gradient is at least as large as on both sides along its direction.

    Between two neighbours the size is interpolated by how far the direction turns from the nearer
    axis to the diagonal.
    """
    height, width = size.shape
    padded = np.pad(size, 1)

    def at(y: int, x: int) -> Numbers:
        return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    steep, flat = np.abs(down), np.abs(right)
    same = ((down >= 0) & (right >= 0)) | ((down <= 0) & (right <= 0))
    # on the falling diagonal a tie goes to the row, on the rising one to the column
    vertical = np.where(same, steep > flat, steep >= flat)
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.where(vertical, flat / steep, steep / flat)

    def beyond(y: int) -> Numbers:
        """The size on the side of row y, -1 or 1, along the falling or the rising diagonal."""
        falling = (np.where(vertical, at(y, 0), at(0, y)), at(y, y))
        rising = (np.where(vertical, at(y, 0), at(0, -y)), at(y, -y))
        near, diagonal = (np.where(same, f, r) for f, r in zip(falling, rising, strict=True))
        return diagonal * turn + near * (1.0 - turn)

    with np.errstate(invalid="ignore"):
        ridge: Mask = (beyond(1) <= size) & (beyond(-1) <= size)
    return ridge
