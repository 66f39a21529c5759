"""How visible the edge of a hole is in the picture that was filled: the seam score.

No reference is needed. Across the edge, the step from fill to surroundings is compared with the
steps that are usual on both sides; and the fine texture just inside is compared with that just
outside. 0 is a picture whose edge cannot be told, 1 a cut. Nobody gains by blurring: a smooth fill
has no step, but lacks the texture. docs/evaluate.md has the definition with its measured behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.images.masks import Hole

Numbers = NDArray[np.float32]

#: pixels over which levels are averaged on each side of an edge: sharp to soft seams
SCALES = (1, 2, 4)
#: pixels up to this far from the edge are its neighbourhood
REACH = 24
#: deviation of the window in which an edge is compared with its neighbourhood, pixels
WINDOW = 12.0
#: steps of this many 8-bit levels cannot be seen even where there is no texture
JUST_SEEN = 2.0
#: sums are pooled over squares of this side before the window is laid over them
BLOCK = 4
#: fewer places than this in a window do not count
ENOUGH = 1e-4
#: where a change is looked at: over the edge, and on both sides of it
KINDS = ("across", "outside", "inside")


@dataclass(frozen=True)
class Seam:
    """Of one picture; all from 0 (none) to 1.

    Attributes:
        score: 1 - (1 - step) (1 - texture).
        step: share of the change across the edge that texture does not explain.
        texture: how unlike the fine texture is on both sides, of either being the richer.
    """

    score: float
    step: float
    texture: float


def seam(picture: NDArray[Any], hole: Hole) -> Seam | None:
    """The seam score of a filled picture.

    Args:
        picture: H x W x 3, uint8 or uint16.
        hole: H x W, True where it was filled.

    Returns:
        None where no edge can be judged: no hole, nothing but hole, or a hole thinner than 2 pixels
        everywhere.
    """
    near = _near_edge(hole)
    if not near.any():
        return None
    rows, columns = (np.flatnonzero(near.any(axis=axis)) for axis in (1, 0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    levels = picture[crop].astype(np.float32) * np.float32(255 / np.iinfo(picture.dtype).max)
    found = [_at_scale(levels, hole[crop], near[crop], scale) for scale in SCALES]
    judged = [one for one in found if one is not None]
    if not judged:
        return None
    step = max(0.0, float(np.mean([one[0] for one in judged])))
    texture = float(np.mean([one[1] for one in judged]))
    return Seam(1 - (1 - step) * (1 - texture), step, texture)


def _near_edge(hole: Hole) -> Hole:
    """Pixels of both sides up to REACH from the other side."""
    if not hole.any() or hole.all():
        return np.zeros_like(hole)
    sides = (hole.astype(np.uint8), (~hole).astype(np.uint8))
    away = [cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_5) for side in sides]
    return np.asarray(np.maximum(*away) <= REACH)


def _at_scale(levels: Numbers, hole: Hole, near: Hole, scale: int) -> tuple[float, float] | None:
    """Mean excess of the step (-1 to 1) and unlikeness of the texture (0 to 1) along the edge."""
    shape = [-(-side // BLOCK) for side in hole.shape]
    totals = {kind: np.zeros((2, *shape), np.float32) for kind in KINDS}
    for turned in (False, True):
        turn = _turn if turned else np.asarray
        square, places = _changes(turn(levels), turn(hole), turn(near), scale)
        for kind, where in places.items():
            totals[kind][0] += _pooled(turn(square * where))
            totals[kind][1] += _pooled(turn(where.astype(np.float32)))
    along = totals["across"][1]
    if not along.any():
        return None
    known, means = along > 0, {}
    for kind, planes in totals.items():
        total, count = (cv2.GaussianBlur(plane, (0, 0), WINDOW / BLOCK) for plane in planes)
        known &= count > ENOUGH
        means[kind] = total / np.maximum(count, ENOUGH)
    if not known.any():
        return None
    across, outside, inside = (means[kind][known] for kind in KINDS)
    usual, seen = (outside + inside) / 2, JUST_SEEN**2
    excess = (across - usual) / (across + usual + seen)
    likeness = (2 * np.sqrt(outside * inside) + seen) / (outside + inside + seen)
    weights = along[known]
    return (
        float(np.average(excess, weights=weights)),
        float(1 - np.average(likeness, weights=weights)),
    )


def _turn(plane: NDArray[Any]) -> NDArray[Any]:
    """Rows for columns."""
    return np.ascontiguousarray(plane.swapaxes(0, 1))


def _pooled(plane: NDArray[Any]) -> Numbers:
    """Sums of blocks; what is left over at the right and bottom counts as 0."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, -height % BLOCK), (0, -width % BLOCK)))
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    return np.asarray(blocks.sum(axis=(1, 3)))


def _changes(
    levels: NDArray[Any], hole: NDArray[Any], near: NDArray[Any], scale: int
) -> tuple[Numbers, dict[str, Hole]]:
    """Squared changes between neighbouring columns, and where each of KINDS is.

    Four means of `scale` pixels in a row, a b | c d: the change is c - b less half of (b - a) +
    (d - c), which leaves nothing of a ramp and all of a step.
    """
    height, width = hole.shape
    square = np.zeros((height, width), np.float32)
    places = {kind: np.zeros((height, width), bool) for kind in KINDS}
    count = width - 4 * scale + 1
    if count <= 0:
        return square, places
    means = _running(levels, scale) / scale
    a, b, c, d = (means[:, i * scale : i * scale + count] for i in range(4))
    change = 1.5 * (c - b) - 0.5 * (d - a)
    holes = _running(hole.astype(np.float32), 2 * scale)
    left, right = holes[:, :count], holes[:, 2 * scale : 2 * scale + count]
    at = np.s_[:, 2 * scale - 1 : 2 * scale - 1 + count]
    square[at] = (change**2).mean(axis=2)
    places["across"][at] = np.abs(left - right) == 2 * scale
    places["outside"][at] = (left + right == 0) & near[at]
    places["inside"][at] = (left + right == 4 * scale) & near[at]
    return square, places


def _running(plane: NDArray[Any], length: int) -> Numbers:
    """Sums of `length` neighbouring columns."""
    count = plane.shape[1] - length + 1
    total = plane[:, :count].copy()
    for i in range(1, length):
        total += plane[:, i : i + count]
    return total
