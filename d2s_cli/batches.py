"""Windows of many pictures through the refiner, in batches of one size and recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.diffusion.reduced import correct_reduced
from d2s_cli.diffusion.refiner import Refiner, SeedKey
from d2s_cli.errors import DeviceError
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.recipe import Recipe

#: windows of 256 x 256 that go through the network together
BATCH = {"cpu": 4, "cuda": 16, "mps": 4}
#: when memory runs out with a single window, its tiles are halved down to this side
SMALLEST_TILE = 128


@dataclass
class Piece:
    """One window of one sample of one picture.

    Attributes:
        picture: H x W x 3, uint8 or uint16.
        hole: H x W.
        guide: like `picture`; None starts from noise alone.
        seed: what its noise depends on.
        deliver: is given the refined window.
        owner: whose window it is, see WindowBatches.keep.
    """

    picture: NDArray[Any]
    hole: NDArray[np.bool_]
    guide: NDArray[Any] | None
    seed: SeedKey
    deliver: Callable[[NDArray[Any]], None]
    owner: object = None


#: what windows must share to go through the network together
_Kind = tuple[int, int, Recipe]


class WindowBatches:
    """Collects windows until a batch is full. After running out of memory, batches stay smaller.

    Args:
        refiner: does the work.
        batch: windows of 256 x 256 at a time; None picks by device.
    """

    def __init__(self, refiner: Refiner, batch: int | None = None) -> None:
        self.refiner = refiner
        self.queues: dict[_Kind, list[Piece]] = defaultdict(list)
        self.pixels = (batch or BATCH[refiner.device.type]) * 256 * 256
        self.tile = refiner.config.tile

    def add(self, piece: Piece, recipe: Recipe) -> None:
        height, width = piece.hole.shape
        self.queues[(height, width, recipe)].append(piece)

    def compute_full(self) -> None:
        """Refine what fills a batch; the rest waits."""
        while full := [k for k, pieces in self.queues.items() if len(pieces) >= self._count(k)]:
            self._compute_from(full[0])

    def compute_all(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Refine everything that waits; asks before each batch whether to stop."""
        while self.queues and not stop():
            self._compute_from(next(iter(self.queues)))

    def _count(self, kind: _Kind) -> int:
        return max(1, self.pixels // (kind[0] * kind[1]))

    def _compute_from(self, kind: _Kind) -> None:
        count = self._count(kind)
        pieces = self.queues[kind]
        batch, rest = pieces[:count], pieces[count:]
        if rest:
            self.queues[kind] = rest
        else:
            del self.queues[kind]
        self._compute(batch, kind[2])

    def keep(self, wanted: Callable[[Piece], bool]) -> None:
        """Forget the waiting windows that are not wanted any more."""
        for kind, pieces in list(self.queues.items()):
            self.queues[kind] = [piece for piece in pieces if wanted(piece)]
            if not self.queues[kind]:
                del self.queues[kind]

    def _compute(self, pieces: Sequence[Piece], recipe: Recipe) -> None:
        try:
            results = self._refine(pieces, recipe)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if len(pieces) > 1:
                self.pixels //= 2
                half = len(pieces) // 2
                self._compute(pieces[:half], recipe)
                self._compute(pieces[half:], recipe)
                return
            height, width = pieces[0].hole.shape
            if min(self.tile, max(height, width)) // 2 < SMALLEST_TILE:
                raise DeviceError(
                    f"out of memory on {self.refiner.compute} with one window of {width}x{height}"
                    f" in tiles of {self.tile}",
                    "try: close other programs, or --device cpu",
                ) from error
            self.tile = min(self.tile, max(height, width)) // 2
            self._compute(pieces, recipe)
            return
        for piece, result in zip(pieces, results, strict=True):
            piece.deliver(result)

    def _refine(self, pieces: Sequence[Piece], recipe: Recipe) -> NDArray[Any]:
        image = to_unit_range(np.stack([p.picture for p in pieces]))
        hole = torch.from_numpy(np.stack([p.hole for p in pieces]))[:, None].float()
        guides = [p.guide for p in pieces if p.guide is not None]
        guide = to_unit_range(np.stack(guides)) if guides else None
        seeds = [p.seed for p in pieces]
        if guide is not None and max(image.shape[-2:]) > self.tile:
            guide = correct_reduced(
                lambda i, h, g: self._call(i, h, g, recipe, seeds), image, hole, guide, self.tile
            )
        out = self._call(image, hole, guide, recipe, seeds)
        return from_unit_range(out, pieces[0].picture.dtype)

    def _call(
        self,
        image: torch.Tensor,
        hole: torch.Tensor,
        guide: torch.Tensor | None,
        recipe: Recipe,
        seeds: Sequence[SeedKey],
    ) -> torch.Tensor:
        return self.refiner.refine(
            image,
            hole,
            guide,
            tk=recipe.tk,
            steps=recipe.steps,
            sampler=recipe.sampler,
            schedule=recipe.table,
            inject=recipe.inject,
            seed=seeds,
            start=recipe.start,
            spacing=recipe.spacing,
            tile=self.tile,
        ).cpu()
