"""Random holes to train and score on: MAT's free-form masks, and thin scratches.

MAT's generator is written from the description of its six steps; its statistics (hole share 0.41 on
average for `large`, 0.22 for `small` at 256) are tested. Every function takes its own numpy
generator, so a picture's mask depends on its seed alone. Holes are 1 here, as everywhere in d2s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Hole = NDArray[np.bool_]


@dataclass(frozen=True)
class FreeFormCounts:
    """Upper ends (not reached) of how many of each shape one mask gets."""

    half_boxes: int
    full_boxes: int
    strokes: int


#: MAT's published counts, by resolution and size of hole
MAT_COUNTS = {
    "large": FreeFormCounts(4, 2, 8),
    "small": FreeFormCounts(2, 2, 3),
    "large-512": FreeFormCounts(5, 3, 9),
    "small-512": FreeFormCounts(3, 2, 4),
}

MEAN_TURN = 2 * math.pi / 5
TURN_RANGE = 2 * math.pi / 15
STROKE_VERTICES = (4, 18)
STROKE_WIDTHS = (12, 48)


def mat_mask(rng: np.random.Generator, size: int, kind: str = "large") -> Hole:
    """One of MAT's free-form masks: boxes up to half and up to full size, and wide strokes.

    Args:
        rng: source of all randomness.
        size: side of the square, pixels. Stroke widths are in pixels whatever the size.
        kind: a key of MAT_COUNTS.

    Returns:
        bool (size, size), True in the hole; never empty, never full.
    """
    counts = MAT_COUNTS[kind]
    while True:
        hole = np.zeros((size, size), bool)
        _boxes(rng, hole, counts.half_boxes, size // 2)
        _boxes(rng, hole, counts.full_boxes, size)
        hole |= _strokes(rng, size, counts.strokes)
        if 0 < hole.sum() < hole.size:
            return hole


def _boxes(rng: np.random.Generator, hole: Hole, count_end: int, side_end: int) -> None:
    size = hole.shape[0]
    for _ in range(rng.integers(count_end)):
        width, height = (int(v) for v in rng.integers(side_end, size=2))
        left = int(rng.integers(-(width // 2), size - width + width // 2))
        top = int(rng.integers(-(height // 2), size - height + height // 2))
        hole[max(top, 0) : top + height, max(left, 0) : left + width] = True


def _strokes(rng: np.random.Generator, size: int, count_end: int) -> Hole:
    layer = Image.new("L", (size, size))
    draw = ImageDraw.Draw(layer)
    reach = math.sqrt(2) * size / 8
    for _ in range(rng.integers(count_end)):
        points = _stroke_path(rng, size, reach)
        width = int(rng.uniform(*STROKE_WIDTHS))
        draw.line(points, fill=1, width=width)
        for x, y in points:
            r = width // 2
            draw.ellipse((x - r, y - r, x + r, y + r), fill=1)
    hole = np.asarray(layer).astype(bool)
    if rng.random() < 0.5:
        hole = hole[::-1]
    if rng.random() < 0.5:
        hole = hole[:, ::-1]
    return hole


def _stroke_path(rng: np.random.Generator, size: int, reach: float) -> list[tuple[int, int]]:
    vertices = int(rng.integers(*STROKE_VERTICES))
    low = MEAN_TURN - rng.uniform(0, TURN_RANGE)
    high = MEAN_TURN + rng.uniform(0, TURN_RANGE)
    angles = rng.uniform(low, high, vertices)
    angles[::2] = 2 * math.pi - angles[::2]
    points = [(int(rng.integers(size)), int(rng.integers(size)))]
    for angle in angles:
        length = float(np.clip(rng.normal(reach, reach // 2), 0, 2 * reach))
        x = np.clip(points[-1][0] + length * math.cos(angle), 0, size)
        y = np.clip(points[-1][1] + length * math.sin(angle), 0, size)
        points.append((int(x), int(y)))
    return points


def scratch_mask(rng: np.random.Generator, size: int) -> Hole:
    """Thin scratches and specks, as on old prints: 1 to 12 polylines, 2 to 14 pixels wide."""
    layer = Image.new("L", (size, size))
    draw = ImageDraw.Draw(layer)
    for _ in range(int(rng.integers(1, 13))):
        points = [tuple(int(v) for v in rng.integers(size, size=2))]
        angle = rng.uniform(0, 2 * math.pi)
        for _ in range(int(rng.integers(1, 6))):
            angle += rng.normal(0, 0.5)
            length = rng.uniform(0.02, 0.35) * size
            x, y = points[-1]
            points.append((int(x + length * math.cos(angle)), int(y + length * math.sin(angle))))
        draw.line(points, fill=1, width=int(rng.integers(2, 15)), joint="curve")
    hole = np.asarray(layer).astype(bool)
    if not hole.any():
        y, x = rng.integers(size, size=2)
        hole = hole.copy()
        hole[y : y + 8, x : x + 8] = True
    return hole


#: how often each kind is drawn for the bundled weights' recipe
MIXTURE = {"large": 0.45, "small": 0.30, "scratch": 0.25}


def mixed_mask(rng: np.random.Generator, size: int) -> Hole:
    """MAT's large and small masks and scratches, in the proportions of MIXTURE."""
    kind = rng.choice(list(MIXTURE), p=list(MIXTURE.values()))
    return scratch_mask(rng, size) if kind == "scratch" else mat_mask(rng, size, str(kind))
