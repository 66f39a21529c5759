"""Windows of many pictures through the refiner, in batches of one size and recipe.

`Batches` is what this has in common with the windows that go through a guide (filling.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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

Item = TypeVar("Item")
Kind = TypeVar("Kind", bound=tuple[int, int, object])


class Batches(ABC, Generic[Item, Kind]):
    """Collects windows of one kind until a batch is full. After running out of memory, batches stay
    smaller.

    Args:
        batch: windows of 256 x 256 at a time.
    """

    def __init__(self, batch: int) -> None:
        self.queues: dict[Kind, list[Item]] = defaultdict(list)
        self.pixels = batch * 256 * 256

    @abstractmethod
    def compute(self, items: Sequence[Item], kind: Kind) -> None:
        """Work on a batch, and hand on what comes of it.

        Raises:
            torch.OutOfMemoryError: nothing was handed on; it will be tried in halves.
        """

    @abstractmethod
    def compute_tight(self, item: Item, kind: Kind, error: torch.OutOfMemoryError) -> None:
        """Work on one item for which alone the memory did not suffice, in another way."""

    def add_to(self, kind: Kind, item: Item) -> None:
        """Queue an item.

        Args:
            kind: height, width, and what else items of a batch share.
            item: to work on.
        """
        self.queues[kind].append(item)

    def compute_full(self) -> None:
        """Work on what fills a batch; the rest waits."""
        while full := [k for k, items in self.queues.items() if len(items) >= self._count(k)]:
            self._compute_from(full[0])

    def compute_all(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Work on everything that waits; asks before each batch whether to stop."""
        while self.queues and not stop():
            self._compute_from(next(iter(self.queues)))

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Forget the waiting windows that are not wanted any more."""
        for kind, items in list(self.queues.items()):
            self.queues[kind] = [item for item in items if wanted(item)]
            if not self.queues[kind]:
                del self.queues[kind]

    def _count(self, kind: Kind) -> int:
        return max(1, self.pixels // (kind[0] * kind[1]))

    def _compute_from(self, kind: Kind) -> None:
        count = self._count(kind)
        items = self.queues[kind]
        batch, rest = items[:count], items[count:]
        if rest:
            self.queues[kind] = rest
        else:
            del self.queues[kind]
        self._compute(batch, kind)

    def _compute(self, items: Sequence[Item], kind: Kind) -> None:
        error = self._try(items, kind)
        if error is None:
            return
        torch.cuda.empty_cache()
        if len(items) == 1:
            self.compute_tight(items[0], kind, error)
            return
        self.pixels //= 2
        half = len(items) // 2
        self._compute(items[:half], kind)
        self._compute(items[half:], kind)

    def _try(self, items: Sequence[Item], kind: Kind) -> torch.OutOfMemoryError | None:
        """The error if memory ran out, without its traceback, which holds the call's tensors."""
        try:
            self.compute(items, kind)
        except torch.OutOfMemoryError as error:
            return error.with_traceback(None)
        return None


@dataclass
class Piece:
    """One window of one sample of one picture.

    Attributes:
        picture: H x W x 3, uint8 or uint16.
        hole: H x W.
        guide: like `picture`; None starts from noise alone.
        seed: what its noise depends on.
        deliver: is given the refined window.
        owner: whose window it is, see Batches.keep.
    """

    picture: NDArray[Any]
    hole: NDArray[np.bool_]
    guide: NDArray[Any] | None
    seed: SeedKey
    deliver: Callable[[NDArray[Any]], None]
    owner: object = None


#: what windows must share to be refined together
_Kind = tuple[int, int, Recipe]


class WindowBatches(Batches[Piece, _Kind]):
    """Windows through the refiner.

    Args:
        refiner: does the work.
        batch: windows of 256 x 256 at a time; None picks by device.
    """

    def __init__(self, refiner: Refiner, batch: int | None = None) -> None:
        super().__init__(batch or BATCH[refiner.device.type])
        self.refiner = refiner
        self.tile = refiner.config.tile

    def add(self, piece: Piece, recipe: Recipe) -> None:
        self.add_to((*piece.hole.shape, recipe), piece)

    def compute(self, pieces: Sequence[Piece], kind: _Kind) -> None:
        results = self._refine(pieces, kind[2])
        for piece, result in zip(pieces, results, strict=True):
            piece.deliver(result)

    def compute_tight(self, piece: Piece, kind: _Kind, error: torch.OutOfMemoryError) -> None:
        """In smaller tiles.

        Raises:
            DeviceError: they are small already.
        """
        height, width, _ = kind
        if min(self.tile, max(height, width)) // 2 < SMALLEST_TILE:
            raise DeviceError(
                f"out of memory on {self.refiner.compute} with one window of {width}x{height}"
                f" in tiles of {self.tile}",
                "try: close other programs, or --device cpu",
            ) from error
        self.tile = min(self.tile, max(height, width)) // 2
        self._compute([piece], kind)

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
