"""PatchMatch's results for training examples, made once and kept.

PatchMatch takes longer than a training step, so a run has a fixed number of examples with its
result, as large as its largest crops; they lie beside the checkpoint and are used again and again:
squares out of them, turned and mirrored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s_cli.guides.patchmatch import patchmatch_guide
from d2s_cli.training.data import HOLE_SHARE, Picture, draw_example
from d2s_cli.training.run import Schedule

#: examples in one file
SHARD = 64
#: numbers of these examples, away from those that are drawn afresh
FIRST_NUMBER = 2 * 10**12


@dataclass(frozen=True)
class Candidates:
    """Examples with a first result: uint8 N x S x S x 3, bool N x S x S, uint8 N x S x S x 3."""

    images: NDArray[np.uint8]
    holes: NDArray[np.bool_]
    fills: NDArray[np.uint8]

    def draw(
        self, rng: np.random.Generator, side: int
    ) -> tuple[Picture, NDArray[np.bool_], Picture]:
        """A square of `side` out of one of them, turned and mirrored at random: image, hole, fill.

        The hole covers a share of the square that training takes (HOLE_SHARE).
        """
        room = self.images.shape[1] - side + 1
        while True:
            index = int(rng.integers(len(self.images)))
            top, left = rng.integers(room, size=2)
            square = (index, slice(top, top + side), slice(left, left + side))
            if HOLE_SHARE[0] < self.holes[square].mean() < HOLE_SHARE[1]:
                break
        turns, mirror = int(rng.integers(4)), rng.random() < 0.5

        def move(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
            x = np.rot90(x[:, ::-1] if mirror else x, turns)
            return np.ascontiguousarray(x)

        hole = move(self.holes[square].view(np.uint8)).astype(bool)
        return move(self.images[square]), hole, move(self.fills[square])


def load_candidates(
    folder: Path,
    photos: Sequence[Picture],
    schedule: Schedule,
    count: int,
    report: Callable[[int], None] = lambda made: None,
) -> Candidates:
    """Read the examples of a run, making those that are not there yet.

    Args:
        folder: where they are kept.
        photos: to crop from.
        schedule: of the run; example k depends on its seed, data and largest size, and k, alone.
        count: how many.
        report: called with how many there are, after each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    name = f"{max(schedule.sizes)}-{schedule.seed}"
    if schedule.data != "crops":
        name = f"{schedule.data}-{name}"
    for first in range(0, count, SHARD):
        path = folder / f"{name}-{first:06d}.npz"
        if not path.exists():
            _make_shard(path, photos, schedule, first, min(SHARD, count - first))
        with np.load(path) as file:
            shards.append((file["images"], file["holes"], file["fills"]))
        report(min(first + SHARD, count))
    images, holes, fills = (np.concatenate(parts)[:count] for parts in zip(*shards, strict=True))
    return Candidates(images, np.unpackbits(holes, axis=-1).astype(bool), fills)


def _make_shard(
    path: Path, photos: Sequence[Picture], schedule: Schedule, first: int, count: int
) -> None:
    guide = patchmatch_guide()
    seed, size = schedule.seed, max(schedule.sizes)
    examples = [
        draw_example(photos, seed, FIRST_NUMBER + first + i, size, "mixed", schedule.data)
        for i in range(count)
    ]
    fills = [guide.fill_picture(e.image, e.hole, seed) for e in examples]
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(
            file,
            images=np.stack([e.image for e in examples]),
            holes=np.packbits(np.stack([e.hole for e in examples]), axis=-1),
            fills=np.stack(fills),
        )
    os.replace(partial, path)
