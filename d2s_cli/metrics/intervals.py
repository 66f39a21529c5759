"""Confidence intervals by resampling pictures (the bootstrap of Efron, 1979)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: share of the intervals
CONFIDENCE = 0.95
_NORMAL = 1.959963984540054
#: resamples of means that are drawn at once
_TOGETHER = 64

Interval = tuple[float, float]


def mean_interval(values: NDArray[np.float64], resamples: int, seed: int) -> Interval | None:
    """Percentile interval of a mean over pictures; None for fewer than 2 values."""
    if len(values) < 2 or resamples < 2:
        return None
    rng = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < resamples:
        count = min(_TOGETHER, resamples - len(means))
        means += list(values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def draws(count: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """resamples x count row numbers, drawn with replacement."""
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


def spread_interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """Value and 1.96 standard deviations of its resamples on both sides.

    For scores of sets: copies in a resample move their mean (a Frechet distance rises), so that
    percentiles would lie beside the value.
    """
    half = _NORMAL * float(np.std(resampled, ddof=1))
    return value - half, value + half


def resampled_scores(
    score: Callable[[NDArray[np.int64]], float], count: int, resamples: int, seed: int
) -> NDArray[np.float64]:
    """The score of every resample of row numbers."""
    return np.array([score(rows) for rows in draws(count, resamples, seed)])
