"""Features of results and truths as they come, from one process or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import UsageError
from d2s_cli.images.picture_sets import PictureSet, pair_sets
from d2s_cli.metrics.distances import Features, Moments
from d2s_cli.metrics.pictures import Item
from d2s_cli.metrics.statistics import Statistics


def aligned(results: Statistics, truth: Statistics) -> Statistics:
    """The reference's features in the order of the results they belong to, by name.

    Raises:
        UsageError: statistics without features or names.
        InputError: names that do not match.
    """
    if truth.features is None or truth.names is None or results.names is None:
        raise UsageError(
            f"pids compares each result with its own truth, and {truth.source} does not have them",
            "give two folders, or try: --metric uids",
        )
    order = [j for _, j in pair_sets(_named(results), _named(truth))]
    names = tuple(truth.names[i] for i in order)
    return Statistics.of_features(truth.features[order], truth.source, names)


def _named(statistics: Statistics) -> PictureSet:
    names = statistics.names or ()
    return PictureSet(Path(statistics.source), tuple(map(Path, names)), names)


class Side:
    """Features of one side as they come: rows by item, or sums alone.

    Args:
        keep: keep the rows.
    """

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.rows: dict[int, NDArray[np.float32]] = {}
        self.sums: Moments | None = None

    @classmethod
    def pair(cls, keep: bool) -> dict[str, Side]:
        return {"result": cls(keep), "truth": cls(keep)}

    def add(self, numbers: Sequence[int], features: Features) -> None:
        if self.keep:
            self.rows |= dict(zip(numbers, features, strict=True))
            return
        if self.sums is None:
            self.sums = Moments(features.shape[1])
        self.sums.add(features)

    def merge(self, other: Side) -> None:
        """Take in what another rank has."""
        self.rows |= other.rows
        if other.sums is not None:
            if self.sums is None:
                self.sums = Moments(len(other.sums.mean))
            self.sums.merge(other.sums)

    def statistics(self, source: str, items: Sequence[Item]) -> Statistics | None:
        """What came of it; None if nothing did."""
        if self.rows:
            order = sorted(self.rows)
            features = np.stack([self.rows[n] for n in order])
            return Statistics.of_features(features, source, [items[n].name for n in order])
        return Statistics.of_moments(self.sums, source) if self.sums is not None else None
