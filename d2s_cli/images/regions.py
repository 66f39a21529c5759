"""Windows round holes, at the photo's own resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Hole = NDArray[np.bool_]

#: sides of windows; few, so that windows of many files run as one batch
BUCKETS = (48, 64, 96, 128, 192, 256, 384, 512)
#: windows up to this side are square, so that specks of all shapes meet in few batches
SQUARE = 128
#: holes closer than this many pixels share a window
MERGE_GAP = 48
#: known pixels on each side of a hole: half its size, within these bounds
CONTEXT = (16, 128)


@dataclass(frozen=True)
class Window:
    """A rectangle to work on and the hole pixels that it answers for.

    Attributes:
        top, left, height, width: upright pixels, inside the picture.
        number: counts the windows of a picture; seeds its noise.
        own: bool height x width, the hole pixels whose result is taken from this window. Other
            hole pixels inside are holes to the network too, but another window answers for them.
    """

    top: int
    left: int
    height: int
    width: int
    number: int
    own: Hole

    @property
    def slices(self) -> tuple[slice, slice]:
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


def hole_windows(
    hole: Hole, largest: int = BUCKETS[-1], context: int | None = None
) -> list[Window]:
    """Windows that answer for every hole pixel exactly once.

    Args:
        hole: upright H x W.
        largest: largest bucket to use; a larger hole gets a window of its own size.
        context: pixels of surroundings; None takes half the hole's size within CONTEXT.

    Returns:
        Windows in reading order of their holes. Holes whose windows would be the same rectangle
        (in small pictures, all of it) share one.
    """
    groups = _group(hole)
    holes_of: dict[tuple[int, int, int, int], list[int]] = {}
    for label, (top, left, bottom, right) in enumerate(_boxes(groups), 1):
        sides = [_side(e - s, largest, context) for s, e in ((top, bottom), (left, right))]
        if max(sides) <= SQUARE:
            sides = [max(sides)] * 2
        y, height = _span(top, bottom, hole.shape[0], sides[0])
        x, width = _span(left, right, hole.shape[1], sides[1])
        holes_of.setdefault((y, x, height, width), []).append(label)
    windows = []
    for number, ((y, x, height, width), labels) in enumerate(holes_of.items()):
        view = groups[y : y + height, x : x + width]
        windows.append(Window(y, x, height, width, number, np.isin(view, labels)))
    return windows


def _group(hole: Hole) -> NDArray[np.int32]:
    """Label hole pixels; holes within MERGE_GAP of each other get one label. 0 elsewhere."""
    side = MERGE_GAP + 1
    near = cv2.dilate(hole.astype(np.uint8), np.ones((side, side), np.uint8))
    _, labels = cv2.connectedComponents(near, connectivity=8, ltype=cv2.CV_32S)
    return np.where(hole, labels, 0)


def _boxes(groups: NDArray[np.int32]) -> list[tuple[int, int, int, int]]:
    """Top, left, bottom, right (not included) of labels 1, 2, ..."""
    count = int(groups.max(initial=0))
    if count == 0:
        return []
    ys, xs = np.nonzero(groups)
    labels = groups[ys, xs]
    low = np.full((count + 1, 2), np.iinfo(np.int64).max)
    high = np.zeros((count + 1, 2), np.int64)
    positions = np.stack([ys, xs], axis=1)
    np.minimum.at(low, labels, positions)
    np.maximum.at(high, labels, positions + 1)
    return [
        (int(a), int(b), int(c), int(d)) for (a, b), (c, d) in zip(low[1:], high[1:], strict=True)
    ]


def _side(extent: int, largest: int, context: int | None) -> int:
    """A window's side: hole and context, rounded up to a bucket."""
    margin = int(np.clip(extent // 2, *CONTEXT)) if context is None else context
    return _bucket(extent + 2 * margin, largest)


def _span(start: int, end: int, length: int, side: int) -> tuple[int, int]:
    """Start and size along one axis, the hole in the middle, inside the picture."""
    size = min(side, length)
    first = (start + end - size) // 2
    return min(max(first, 0), length - size), size


def _bucket(wanted: int, largest: int) -> int:
    fitting: Sequence[int] = [b for b in BUCKETS if wanted <= b <= largest]
    return fitting[0] if fitting else wanted
