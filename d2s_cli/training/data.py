"""Training examples: crops of photographs with holes, each decided by its own number.

Example k of a run depends on (seed, k) alone: its picture, crop and hole are the same on
any machine, after any interruption, and however many workers draw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from d2s_cli.images.convert import to_unit_range
from d2s_cli.images.draw_masks import Hole, mat_mask
from d2s_cli.training.masks import mixed_mask
from d2s_cli.training.pictures import Picture as Picture

#: what an example shows of its picture
DATA = ("crops", "aligned")
#: crops are reduced by a random factor up to this, so that one photo gives many scales
MAX_REDUCTION = 3.0
#: holes outside these shares of the crop are drawn again
HOLE_SHARE = (0.01, 0.9)
#: examples of step k have numbers from k times this on, so that batches may differ in size
EXAMPLES_A_STEP = 100_000


@dataclass(frozen=True)
class Example:
    """A crop, uint8 H x W x 3, and a bool hole."""

    image: Picture
    hole: Hole


@dataclass(frozen=True)
class Batch:
    """Tensors as everywhere: N x 3 x H x W in [-1, 1]; hole N x 1 x H x W.

    Where a guide is trained: `candidate` is a first result to correct, and `soft` Telea's fill, for
    its smoother; both like `image`.
    """

    image: Tensor
    hole: Tensor
    candidate: Tensor | None = None
    soft: Tensor | None = None


def draw_example(
    photos: Sequence[Picture], seed: int, number: int, size: int, recipe: str, data: str = "crops"
) -> Example:
    """Example `number` of the run.

    Args:
        photos: pictures of any size.
        seed: of the run.
        number: counts examples from 0.
        size: side of the crop, pixels.
        recipe: masks: "paper" for MAT's large ones at `size`; "mixed" for windows cut out of 256
            masks of three kinds.
        data: "crops" for random crops at random scale; "aligned" for whole pictures (of those that
            are not square, the middle). Both are mirrored half of the time.
    """
    rng = np.random.default_rng([seed, number])
    photo = photos[int(rng.integers(len(photos)))]
    image = _whole(photo, size) if data == "aligned" else _random_crop(rng, photo, size)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    image = np.ascontiguousarray(image)
    return Example(image, _random_hole(rng, size, recipe))


def _random_crop(rng: np.random.Generator, photo: Picture, size: int) -> Picture:
    height, width = photo.shape[:2]
    largest = min(min(height, width) / size, MAX_REDUCTION)
    # even in the logarithm between full resolution and the largest reduction; small photos are
    # enlarged just as far as needed
    factor = largest if largest < 1 else float(largest ** rng.random())
    side = round(size * factor)
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return _resized(photo[top : top + side, left : left + side], size)


def _whole(photo: Picture, size: int) -> Picture:
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resized(photo[top : top + side, left : left + side], size)


def _resized(square: Picture, size: int) -> Picture:
    side = len(square)
    if side == size:
        return square
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (size, size), interpolation=method), np.uint8)


def _random_hole(rng: np.random.Generator, size: int, recipe: str) -> Hole:
    if recipe == "paper":
        return mat_mask(rng, size, "large")
    canvas = max(256, size)
    while True:
        hole = mixed_mask(rng, canvas)
        top, left = rng.integers(canvas - size + 1, size=2)
        hole = hole[top : top + size, left : left + size]
        if HOLE_SHARE[0] < hole.mean() < HOLE_SHARE[1]:
            return np.ascontiguousarray(hole)


def make_batch(examples: Sequence[Example]) -> Batch:
    return Batch(
        image=to_unit_range(np.stack([e.image for e in examples])),
        hole=torch.from_numpy(np.stack([e.hole for e in examples]))[:, None].float(),
    )
