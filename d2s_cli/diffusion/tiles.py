"""Prediction in overlapping tiles that agree with each other.

The sampler's state, its noise and its condition are one picture; only the network works tile by
tile. Where tiles overlap, their x_0 estimates are averaged with weights that fall to the tile's
edge, at every step, so neighbouring tiles pull each other together instead of meeting at a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: (top, left, height, width)
Box = tuple[int, int, int, int]
#: overlap of neighbouring tiles as a share of their side
OVERLAP = 0.25


def _starts(length: int, side: int, multiple: int) -> list[int]:
    """Where tiles of `side` begin so that they cover `length` with at least OVERLAP."""
    if length <= side:
        return [0]
    stride = max(multiple, int(side * (1 - OVERLAP)) // multiple * multiple)
    starts = list(range(0, length - side, stride))
    return [*starts, length - side]


def tile_boxes(height: int, width: int, side: int, multiple: int) -> list[Box]:
    """Tiles that cover a height x width picture; one tile if it fits or `side` is 0."""
    side = side // multiple * multiple
    if side == 0 or (height <= side and width <= side):
        return [(0, 0, height, width)]
    return [
        (top, left, min(side, height), min(side, width))
        for top in _starts(height, side, multiple)
        for left in _starts(width, side, multiple)
    ]


def tile_weight(height: int, width: int) -> Tensor:
    """Product of two triangles, 1 in the middle and small but above 0 at the edge: (1, 1, h, w)."""

    def triangle(n: int) -> Tensor:
        positions = torch.arange(n, dtype=torch.float32) + 0.5
        return torch.minimum(positions, n - positions) / (n / 2)

    return (triangle(height)[:, None] * triangle(width)[None])[None, None]


class TiledDenoise:
    """Call a denoiser on tiles and average. Tiles without hole pixels are not computed.

    Args:
        predict_x0: (state, alpha_bar, inputs) -> x_0 for one tile; inputs are cut like the state.
        boxes: tiles of the whole picture.
        hole: N x 1 x H x W.
        tiles_per_batch: how many tiles go through the network together.
    """

    def __init__(
        self,
        predict_x0: Callable[[Tensor, float, Sequence[Tensor]], Tensor],
        boxes: Sequence[Box],
        hole: Tensor,
        tiles_per_batch: int = 4,
    ) -> None:
        self.predict_x0 = predict_x0
        self.whole = len(boxes) == 1
        self.boxes = [b for b in boxes if self.whole or bool(_cut(hole, b).any())]
        self.tiles_per_batch = tiles_per_batch
        # here and not at every step: a device would be waited for
        sizes = set() if self.whole else {(height, width) for _, _, height, width in self.boxes}
        self.weight_of = {size: tile_weight(*size).to(hole.device) for size in sizes}

    def __call__(self, state: Tensor, alpha_bar: float, inputs: Sequence[Tensor]) -> Tensor:
        if self.whole:
            return self.predict_x0(state, alpha_bar, inputs)
        total = torch.zeros_like(state)
        weights = torch.zeros_like(state[:, :1])
        for i in range(0, len(self.boxes), self.tiles_per_batch):
            boxes = self.boxes[i : i + self.tiles_per_batch]
            cut = [torch.cat([_cut(t, b) for b in boxes]) for t in (state, *inputs)]
            estimates = self.predict_x0(cut[0], alpha_bar, cut[1:]).chunk(len(boxes))
            for box, estimate in zip(boxes, estimates, strict=True):
                weight = self.weight_of[box[2:]]
                _cut(total, box).add_(estimate * weight)
                _cut(weights, box).add_(weight)
        # outside every computed tile there is no hole: the state there is known and stays
        return torch.where(weights > 0, total / weights.clamp(min=1e-12), state)


def _cut(x: Tensor, box: Box) -> Tensor:
    top, left, height, width = box
    return x[..., top : top + height, left : left + width]
