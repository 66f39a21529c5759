"""What an evaluation costs, beside the libraries that the published codes call.

    python benchmarks/evaluate_speed.py
    python benchmarks/evaluate_speed.py --others      # needs scipy and scikit-learn, takes minutes
    python benchmarks/evaluate_speed.py --weights pt_inception-2015-12-05-6726825d.pth

Features are made up: 2,993 x 2,048, never negative, correlated, two sets that differ a little.
Times are of one process with the threads that torch and numpy are given.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2s_cli.metrics.distances import (
    Moments,
    frechet_of_features,
    inception_score,
    kernel_distance,
)
from d2s_cli.metrics.features import InceptionFeatures
from d2s_cli.metrics.ids import discriminate
from d2s_cli.metrics.presets import PRESETS

COUNT, SIZE = 2993, 2048


def made_up(seed: int, shift: float) -> np.ndarray:
    """Features like a network's: few directions carry most, the rest is noise; cut at 0."""
    mix = np.random.default_rng(0).normal(size=(256, SIZE)) * np.exp(-np.arange(256) / 60)[:, None]
    rng = np.random.default_rng(seed)
    rows = 0.1 * rng.normal(size=(COUNT, 256)) @ mix + 0.15 * rng.normal(size=(COUNT, SIZE))
    return np.maximum(rows + 0.3 + shift, 0).astype(np.float32)


def timed(name: str, work: Callable[[], Any]) -> Any:
    wall, processor = time.monotonic(), time.process_time()
    value = work()
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    print(f"| {name} | {wall:.2f} | {processor:.2f} | {shown(value)} |", flush=True)
    return value


def shown(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def others(real: np.ndarray, fake: np.ndarray) -> None:
    """The same numbers by scipy and scikit-learn."""
    import scipy.linalg
    from sklearn.svm import LinearSVC

    def svm() -> str:
        rows, real_or_not = np.concatenate([real, fake]), np.repeat([1, 0], COUNT)
        fitted = LinearSVC(dual=False).fit(rows, real_or_not)
        decided = fitted.decision_function(rows)
        pids = (decided[COUNT:] > decided[:COUNT]).mean()
        return f"U-IDS {1 - fitted.score(rows, real_or_not):.6f}, P-IDS {pids:.6f}"

    def root() -> float:
        means = [side.mean(axis=0, dtype=np.float64) for side in (real, fake)]
        covs = [np.cov(side.T.astype(np.float64), ddof=0) for side in (real, fake)]
        product = scipy.linalg.sqrtm(covs[0] @ covs[1])
        trace = np.trace(covs[0] + covs[1] - 2 * product.real)
        return float(((means[0] - means[1]) ** 2).sum() + trace)

    timed("scikit-learn's LinearSVC, fit and score", svm)
    timed("FID by scipy's sqrtm, with covariances", root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {COUNT} x {SIZE}\n")
    print("| work | wall, s | processor, s | value |\n|---|---|---|---|")
    real, fake = made_up(1, 0.0), made_up(2, 0.005)
    timed("FID from features", lambda: frechet_of_features(fake, real, 0))
    timed("FID of 1,000 each", lambda: frechet_of_features(fake[:1000], real[:1000], 0))
    timed("mean and covariance of one set", lambda: Moments.of(real).count)

    def ids() -> str:
        found = discriminate(real, fake, paired=True)
        return f"U-IDS {found.uids:.6f}, P-IDS {found.pids:.6f}"

    timed("P-IDS and U-IDS", ids)
    timed("KID, 100 subsets of 1,000", lambda: kernel_distance(fake, real).mean)
    timed("IS of 1,008 classes, 10 splits", lambda: inception_score(real[:, :1008]).mean)
    if given.weights is not None:
        network = InceptionFeatures(given.weights, PRESETS["mat"], torch.device("cpu"))
        picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
        prepared = [network.prepare(picture)] * 16
        network(prepared[:1])
        timed("Inception features of 16 pictures", lambda: network(prepared).shape[0])
    if given.others:
        others(real, fake)


if __name__ == "__main__":
    main()
