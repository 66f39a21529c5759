"""Held-out pictures, looked at while a guide trains: its losses, and scores of what it corrects.

Examples are the same each time, and in every run of the same size, seed and data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.training.candidates import load_candidates
from d2s_cli.training.data import Batch, Example, Picture, draw_example, make_batch
from d2s_cli.training.guide_data import GuideConfig, opencv_fills
from d2s_cli.training.perceptual import Distances
from d2s_cli.training.validation import AT_ONCE, COUNT, FIRST_NUMBER, hole_scores

#: first results of a batch to corrected ones, N x 3 x H x W on the CPU, and their distances from
#: the truth
Correct = Callable[[Batch], tuple[Tensor, Distances]]


class GuideValidation:
    """Fixed examples of held-out pictures, with PatchMatch's results or, where the run trains on
    none of these, Telea's.

    Args:
        photos: held out.
        config: of the run.
        folder: PatchMatch's results are kept here.
    """

    def __init__(self, photos: Sequence[Picture], config: GuideConfig, folder: Path) -> None:
        self._config = config
        if config.candidate_share:
            kept = load_candidates(folder, photos, config, COUNT)
            self._examples = [Example(*pair) for pair in zip(kept.images, kept.holes, strict=True)]
            self._fills = kept.fills
        else:
            size = max(config.sizes)
            self._examples = [
                draw_example(photos, 0, FIRST_NUMBER + i, size, config.masks, config.data)
                for i in range(COUNT)
            ]
            self._fills = opencv_fills(self._examples, ["telea"] * COUNT)

    def values(self, correct: Correct) -> dict[str, Any]:
        """Losses and scores of first results, corrected.

        Returns:
            "loss" without the adversary's part, and its parts "by_place" and "of_means"; PSNR (dB)
            and "l1" inside holes, and the seam score; means over the pictures.
        """
        distances, scores = [], []
        for first in range(0, len(self._examples), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            examples = self._examples[part]
            batch = make_batch(examples)
            filled, found = correct(
                dataclasses.replace(batch, candidate=to_unit_range(self._fills[part]))
            )
            distances.append([np.mean([float(x) for x in values]) for values in found])
            scores += hole_scores(examples, from_unit_range(filled))
        by_place, of_means = np.mean(distances, axis=0).tolist()
        decibels, distance, seams = np.nanmean(scores, axis=0).tolist()
        config = self._config
        # the run's L1 is of numbers from -1 to 1, the score's of 0 to 1
        loss = config.l1 * 2 * distance + config.perceptual * by_place + config.style * of_means
        return {
            "loss": loss,
            "by_place": by_place,
            "of_means": of_means,
            "psnr": decibels,
            "l1": distance,
            "seam": seams,
        }
