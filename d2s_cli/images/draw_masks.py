"""Random holes to train and score on: MAT's and LaMa's masks, boxes, and thin scratches.

MAT's and LaMa's generators are written from descriptions of their steps; their statistics (mean
hole share at 256: MAT large 0.41, small 0.22; LaMa thin 0.29, medium 0.24, thick 0.27) are tested.
Every function takes its own numpy generator, so a picture's mask depends on its seed alone. Holes
are 1 here, as everywhere in d2s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from d2s_cli.errors import UsageError

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


@dataclass(frozen=True)
class IrregularCounts:
    """LaMa's settings of one width; ranges include both ends, lengths are pixels at 256.

    Attributes:
        strokes: how many.
        width, length: upper ends (not reached) of what is added to 5 and 10 pixels.
        boxes: how many; None draws strokes only.
        side: of a box.
        margin: pixels that a box keeps from the border.
    """

    strokes: tuple[int, int]
    width: int
    length: int
    boxes: tuple[int, int] | None = None
    side: tuple[int, int] = (0, 0)
    margin: int = 0


#: LaMa's published settings at 256, by width of its strokes
IRREGULAR = {
    "thin": IrregularCounts((4, 51), 10, 40),
    "medium": IrregularCounts((4, 6), 50, 100, (1, 5), (10, 50), 0),
    "thick": IrregularCounts((1, 6), 100, 200, (1, 3), (30, 150), 10),
}
#: chance of strokes where boxes are drawn too: weights 1 and 0.3
STROKES_SHARE = 1 / 1.3
#: LaMa drops masks with more hole than this
IRREGULAR_LARGEST = 0.5


def irregular_mask(rng: np.random.Generator, size: int, width: str = "medium") -> Hole:
    """One candidate of LaMa's masks: broken strokes that start anywhere, or boxes.

    Args:
        rng: source of all randomness.
        size: side of the square, pixels. Widths and lengths are in pixels whatever the size.
        width: a key of IRREGULAR.

    Returns:
        bool (size, size). May be more than IRREGULAR_LARGEST; `draw_hole` drops those.
    """
    counts = IRREGULAR[width]
    layer = np.zeros((size, size), np.uint8)
    if counts.boxes is None or rng.random() < STROKES_SHARE:
        for number in range(int(rng.integers(*counts.strokes, endpoint=True))):
            _broken_stroke(rng, layer, counts, mirrored=number % 2 == 0)
    else:
        for _ in range(int(rng.integers(*counts.boxes, endpoint=True))):
            sides = rng.integers(*counts.side, endpoint=True, size=2)
            top, left = (
                int(rng.integers(counts.margin, size - counts.margin - side + 1)) for side in sides
            )
            layer[top : top + sides[0], left : left + sides[1]] = 1
    return layer.astype(bool)


def _broken_stroke(
    rng: np.random.Generator, layer: NDArray[np.uint8], counts: IrregularCounts, mirrored: bool
) -> None:
    """One to five segments of one stroke, each with its own angle, length and width."""
    end = layer.shape[0]
    x, y = (int(v) for v in rng.integers(end, size=2))
    for _ in range(int(rng.integers(1, 6))):
        angle = 0.01 + int(rng.integers(4))
        angle = 2 * math.pi - angle if mirrored else angle
        length = 10 + int(rng.integers(counts.length))
        width = 5 + int(rng.integers(counts.width))
        to_x = int(np.clip(x + length * math.sin(angle), 0, end))
        to_y = int(np.clip(y + length * math.cos(angle), 0, end))
        cv2.line(layer, (x, y), (to_x, to_y), 1, width)
        x, y = to_x, to_y


def box_mask(rng: np.random.Generator, size: int) -> Hole:
    """One to three upright boxes, each side a tenth to half of the square's."""
    hole = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(1, 4))):
        height, width = (int(v) for v in rng.integers(size // 10, size // 2 + 1, size=2))
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        hole[top : top + height, left : left + width] = True
    return hole


def _mat_for_size(kind: str) -> Callable[[np.random.Generator, int], Hole]:
    return lambda rng, size: mat_mask(rng, size, kind if size < 512 else f"{kind}-512")


def _irregular(width: str) -> Callable[[np.random.Generator, int], Hole]:
    return lambda rng, size: irregular_mask(rng, size, width)


#: what `draw_hole` draws, by name
KINDS: dict[str, Callable[[np.random.Generator, int], Hole]] = {
    "irregular-thin": _irregular("thin"),
    "irregular-medium": _irregular("medium"),
    "irregular-thick": _irregular("thick"),
    "mat-large": _mat_for_size("large"),
    "mat-small": _mat_for_size("small"),
    "box": box_mask,
    "scratches": scratch_mask,
}
#: any of KINDS, drawn anew for every mask
MIX = "mix"
#: redraws before a wanted hole share is given up
TRIES = 1000
#: pictures with a longer side are drawn at 512, others at 256
SMALL_PICTURE = 384


def draw_hole(
    kind: str,
    width: int,
    height: int,
    rng: np.random.Generator,
    cover: tuple[float, float] | None = None,
) -> Hole:
    """A random hole for a picture of any size.

    Drawn in a square of 256 or 512 pixels, as the generators were published, cut to the picture's
    shape and enlarged; a picture of exactly that size gets the generator's own pixels.

    Args:
        kind: a key of KINDS, or MIX.
        width, height: of the picture.
        rng: source of all randomness.
        cover: least and largest share of the picture; None takes what the kind draws.

    Returns:
        bool (height, width), never empty, never full.

    Raises:
        UsageError: unknown kind, or a share that the kind does not reach.
    """
    if kind != MIX and kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}", f"one of: {', '.join(KINDS)}, {MIX}")
    side = 256 if max(width, height) <= SMALL_PICTURE else 512
    seen: list[float] = []
    for _ in range(TRIES):
        name = str(rng.choice(list(KINDS))) if kind == MIX else kind
        largest = IRREGULAR_LARGEST if name.startswith("irregular") else 1.0
        low, high = cover or (0.0, largest)
        square = _cut(KINDS[name](rng, side), width, height)
        seen.append(float(square.mean()))
        if not low <= seen[-1] <= high:
            continue
        hole = _enlarged(square, width, height)
        if low <= hole.mean() <= high and 0 < hole.sum() < hole.size:
            return hole
    raise UsageError(
        f"no mask of kind {kind} covered {low:.1%} to {high:.1%} in {TRIES} tries;"
        f" they covered {min(seen):.1%} to {max(seen):.1%}",
        "try: another --kind, or a wider --cover",
    )


def _cut(square: Hole, width: int, height: int) -> Hole:
    """The middle of the square, in the picture's shape."""
    side, longest = square.shape[0], max(width, height)
    rows, columns = (max(1, round(side * length / longest)) for length in (height, width))
    top, left = (side - rows) // 2, (side - columns) // 2
    return square[top : top + rows, left : left + columns]


def _enlarged(hole: Hole, width: int, height: int) -> Hole:
    if hole.shape == (height, width):
        return hole
    smooth = cv2.resize(hole.astype(np.uint8) * 255, (width, height))
    return np.asarray(smooth) >= 128


def parse_cover(text: str) -> tuple[float, float]:
    """`5-40` (percent) to shares.

    Raises:
        UsageError: no such range.
    """
    try:
        low, high = (float(part) / 100 for part in text.split("-"))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise UsageError(f"--cover must be two percentages, not {text!r}", "try: --cover 5-40")
    return low, high
