"""Held-out pictures, looked at while training runs: loss by noise level, and a fixed refinement.

Examples, noise and noise levels are the same each time and in every run with the same settings, so
that values can be compared along a run and between runs. Nothing here draws from a generator that
training uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s_cli.diffusion.loss import squared_error
from d2s_cli.diffusion.refiner import Refiner, SeededNoise
from d2s_cli.guides.opencv import opencv_fill
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.metrics.pixels import l1, psnr
from d2s_cli.metrics.seam import seam
from d2s_cli.training.data import Batch, Example, Picture, draw_example, make_batch

#: examples, and how many at once
COUNT, AT_ONCE = 32, 8
#: noise levels, spread evenly over the steps trained on
LEVELS = 5
#: of the refinement
TK, STEPS = 100, 8
#: of a hole that came out exactly, whose PSNR is infinite
BEST_PSNR = 99.0
#: examples have these numbers, away from training's
FIRST_NUMBER = 3 * 10**12


class Validation:
    """Fixed examples of held-out pictures.

    Args:
        photos: held out.
        size, recipe, data: as `draw_example`.
        levels: alpha_bar to take the loss at.
    """

    def __init__(
        self, photos: Sequence[Picture], size: int, recipe: str, data: str, levels: Sequence[float]
    ) -> None:
        self._examples = [
            draw_example(photos, 0, FIRST_NUMBER + i, size, recipe, data) for i in range(COUNT)
        ]
        self._fills = [
            opencv_fill(np.where(e.hole[..., None], np.uint8(0), e.image), e.hole, "telea")
            for e in self._examples
        ]
        self._levels = list(levels)

    @torch.no_grad()
    def values(self, refiner: Refiner) -> dict[str, Any]:
        """Loss by noise level and its mean (mean over the holes' pixels of each picture); PSNR (dB)
        and L1 inside holes and the seam score of telea's fills, refined."""
        losses = np.zeros(len(self._levels))
        scores: list[tuple[float, float, float]] = []
        for first in range(0, len(self._examples), AT_ONCE):
            examples = self._examples[first : first + AT_ONCE]
            batch = make_batch(examples)
            for i, level in enumerate(self._levels):
                losses[i] += self._loss(refiner, batch, level, (first, i))
            fills = to_unit_range(np.stack(self._fills[first : first + AT_ONCE]))
            scores += hole_scores(examples, self._refined(refiner, batch, fills, first))
        losses /= len(self._examples)
        decibels, distance, seams = np.nanmean(scores, axis=0).tolist()
        by_level = {f"{level:.4f}": float(x) for level, x in zip(self._levels, losses, strict=True)}
        return {
            "loss": float(losses.mean()),
            "loss_at": by_level,
            "psnr": decibels,
            "l1": distance,
            "seam": seams,
        }

    def _loss(self, refiner: Refiner, batch: Batch, level: float, key: tuple[int, int]) -> float:
        """Sum over the pictures of the mean error in their holes."""
        items, device = len(batch.image), refiner.device
        draw = SeededNoise([(key[0] + k, key[1], 0) for k in range(items)], items)
        image, hole = batch.image.to(device), batch.hole.to(device)
        hole_noise, noise = (draw(tuple(image.shape)).to(device) for _ in range(2))
        levels = torch.full((items,), level, device=device)
        error = squared_error(refiner, image, hole, hole_noise, noise, levels)
        pixels = image.shape[1] * hole.sum((1, 2, 3))
        return float((error.sum((1, 2, 3)) / pixels.clamp(min=1)).sum())

    def _refined(
        self, refiner: Refiner, batch: Batch, fills: Tensor, first: int
    ) -> NDArray[np.uint8]:
        refined = refiner.refine(
            batch.image,
            batch.hole,
            fills,
            tk=TK,
            steps=STEPS,
            sampler="dpmpp-sde",
            inject=False,
            seed=[(first + k, 0, 0) for k in range(len(fills))],
        )
        return np.asarray(from_unit_range(refined.cpu()))


def hole_scores(
    examples: Sequence[Example], results: NDArray[Any]
) -> list[tuple[float, float, float]]:
    """PSNR (dB) and L1 inside the hole, and seam score, of each uint8 H x W x 3."""
    found = []
    for example, result in zip(examples, results, strict=True):
        edge = seam(result, example.hole)
        pair = (result, example.image, example.hole)
        found.append((min(psnr(*pair), BEST_PSNR), l1(*pair), edge.score if edge else float("nan")))
    return found
