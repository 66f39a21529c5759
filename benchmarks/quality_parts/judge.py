"""Scores of a set of results, each with an interval by the jackknife over crops.

The jackknife (Tukey, 1958) leaves out one crop at a time. Unlike the bootstrap it puts no crop into
a set twice, which a Frechet distance of few crops would answer to.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.metrics.ids import discriminate, fit_plane
from d2s_cli.metrics.pixels import psnr, ssim
from d2s_cli.metrics.seam import seam
from quality_parts.crops import CropSet, Pictures
from quality_parts.features import (
    Features,
    Outputs,
    features,
    frechet,
    load_feature_network,
    look_at,
)

#: scores, and whether more of it is better
SCORES = {
    "frechet": False,
    "perceptual": False,
    "pids": True,
    "seam": False,
    "psnr": True,
    "ssim": True,
}
#: changes of these are in %, of the others in their own unit
RELATIVE = ("frechet", "perceptual", "seam")
#: standard errors to either side of a 95 % interval
NORMAL = 1.96
#: PSNR of a fill that is exact, dB: one level off at one in a thousand pixels
EXACT = 78.0
#: parts that the crops are split into for the classifier
FOLDS = 5
#: changes when a cached number would be another one
VERSION = "1"


@dataclass(frozen=True)
class Judged:
    """One set of results, measured.

    Attributes:
        per_crop: by score a number for each crop; "frechet" and "truth" hold rows of features.
    """

    per_crop: Features

    def __len__(self) -> int:
        return len(self.per_crop["frechet"])

    def score(self, name: str) -> float:
        return self._score(name, np.ones(len(self), bool))

    def _score(self, name: str, kept: NDArray[np.bool_]) -> float:
        values = self.per_crop[name][kept]
        if name == "frechet":
            return frechet(values, self.per_crop["truth"][kept])
        # a crop whose hole has no edge to judge has no seam score
        return float(np.nanmean(values))

    @functools.cached_property
    def without_one(self) -> Features:
        """By score: its values without crop 0, 1, ..."""
        kept = ~np.eye(len(self), dtype=bool)
        return {name: np.array([self._score(name, row) for row in kept]) for name in SCORES}

    @functools.cached_property
    def published_pids(self) -> float:
        """P-IDS as published: by a classifier fitted on the very pairs that it judges."""
        return discriminate(self.per_crop["truth"], self.per_crop["frechet"], True).pids


def joined(parts: list[Judged]) -> Judged:
    names = parts[0].per_crop
    return Judged({name: np.concatenate([part.per_crop[name] for part in parts]) for name in names})


def half_interval(without_one: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of a score, from its values without each crop."""
    n = len(without_one)
    square = float(np.square(without_one - without_one.mean()).sum())
    return NORMAL * ((n - 1) / n * square) ** 0.5


def with_interval(judged: Judged, name: str) -> tuple[float, float]:
    """A score, and half of its 95 % interval."""
    return judged.score(name), half_interval(judged.without_one[name])


def change(base: Judged, new: Judged, name: str) -> tuple[float, float]:
    """What `new` has more than `base`, and half of the 95 % interval of that; both are of the same
    crops. In % of the base for RELATIVE, else in the score's own unit."""

    def between(a: Any, b: Any) -> Any:
        return 100 * (b / a - 1) if name in RELATIVE else b - a

    away = between(base.without_one[name], new.without_one[name])
    return float(between(base.score(name), new.score(name))), half_interval(away)


def held_out_wins(truths: NDArray[np.float64], results: NDArray[np.float64]) -> NDArray[Any]:
    """For each crop 1 where a classifier that was fitted on other crops takes its result for more
    real than its truth, else 0.

    P-IDS's own classifier is fitted on the pairs that it judges, which needs more pairs than
    features: fewer are always told apart.

    Args:
        truths, results: features N x D; row i of both is one crop.
    """
    wins = np.zeros(len(truths))
    folds = np.arange(len(truths)) % min(FOLDS, len(truths))
    for fold in np.unique(folds):
        out = folds == fold
        plane = fit_plane(truths[~out], results[~out])
        wins[out] = (results[out] - truths[out]) @ plane.weights > 0
    return wins


class Judge:
    """Measures results; what it has measured is kept in `cache`."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / "judged"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._seen: tuple[CropSet, NDArray[np.float64], Outputs] | None = None

    @functools.cached_property
    def network(self) -> torch.nn.Module:
        return load_feature_network()

    def judge(self, results: Pictures, crops: CropSet) -> Judged:
        digest = hashlib.sha256(VERSION.encode())
        for part in (results, crops.truths, crops.holes):
            digest.update(part.tobytes())
        path = self.folder / f"{crops.file_name}-{digest.hexdigest()[:24]}.npz"
        if path.is_file():
            with np.load(path) as stored:
                return Judged({name: stored[name] for name in stored.files})
        per_crop = self._measure(results, crops)
        partial = path.with_suffix(".part.npz")
        np.savez(partial, **per_crop)
        partial.replace(path)
        return Judged(per_crop)

    def _truth(self, crops: CropSet) -> tuple[NDArray[np.float64], Outputs]:
        """Features of the truths; kept while the crops stay the same."""
        if self._seen is None or self._seen[0] is not crops:
            seen = look_at(self.network, crops.truths)
            truth = torch.cat([pooled for _, pooled in seen]).double().numpy()
            self._seen = crops, truth, seen
        return self._seen[1:]

    def _measure(self, results: Pictures, crops: CropSet) -> Features:
        truth, seen = self._truth(crops)
        found = features(self.network, results, seen)
        pairs = list(zip(results, crops.truths, crops.holes, strict=True))
        seams = [seam(result, hole) for result, _, hole in pairs]
        return {
            "frechet": found["frechet"],
            "truth": truth,
            "perceptual": found["perceptual"],
            "pids": held_out_wins(truth, found["frechet"]),
            "seam": np.array([np.nan if one is None else one.score for one in seams]),
            "psnr": np.array([min(psnr(*pair), EXACT) for pair in pairs]),
            "ssim": np.array([ssim(*pair) for pair in pairs]),
        }
