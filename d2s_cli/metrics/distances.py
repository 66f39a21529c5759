"""Distances between sets of features: Frechet and kernel distance, Inception Score.

All of it in float64. Features come as N x D arrays; sums stream, so that Frechet distances of any
number of pictures take the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s_cli.errors import InputError
from d2s_cli.metrics.products import between_triangles, gram

Features = NDArray[np.float32]
Numbers = NDArray[np.float64]

#: features are folded into the sums in blocks of this many rows
BLOCK = 512
#: kernels of up to this many pictures are held whole
WHOLE_KERNELS = 4096


class Moments:
    """Mean and scatter of features that come in any number of batches.

    Means are merged by the update of Chan, Golub and LeVeque (1983), so nothing large is subtracted
    from something large.

    Attributes:
        count: rows so far.
        mean: D.
        scatter: D x D, sum of the products of deviations from the mean.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self.scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)
        self._waiting: list[Tensor] = []

    def add(self, features: Features) -> None:
        """Take in rows N x D.

        Raises:
            InputError: NaN or infinite numbers.
        """
        check_finite(features)
        self._waiting.append(torch.from_numpy(np.asarray(features)))
        if sum(len(rows) for rows in self._waiting) >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Fold in the rows that wait for a full block."""
        if not self._waiting:
            return
        rows = torch.cat(self._waiting).double()
        self._waiting.clear()
        mean = rows.mean(dim=0)
        centred = rows - mean
        self._fold(len(rows), mean, gram(centred))

    def merge(self, other: Moments) -> None:
        """Take in what another one has seen."""
        self.flush()
        other.flush()
        self._fold(other.count, other.mean, other.scatter)

    def _fold(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if count == 0:
            return
        total, away = self.count + count, mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(away, away, alpha=self.count * count / total)
        self.mean += away * (count / total)
        self.count = total

    def covariance(self, ddof: int) -> Tensor:
        """D x D, the scatter divided by count - ddof.

        Raises:
            InputError: too few rows.
        """
        self.flush()
        if self.count <= ddof:
            raise InputError(f"{self.count} picture(s) have no covariance", "give at least 2")
        return self.scatter / (self.count - ddof)

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Moments of all rows at once."""
        moments = cls(features.shape[1])
        for start in range(0, len(features), 4 * BLOCK):
            moments.add(features[start : start + 4 * BLOCK])
        moments.flush()
        return moments


def check_finite(features: NDArray[Any]) -> None:
    """Raise InputError if features hold NaN or infinity."""
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise InputError(
            f"{len(rows)} picture(s) have features that are no numbers (first: number"
            f" {rows[0] + 1})",
            "the weights are damaged, or the network overflows: try --device cpu",
        )


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Frechet (Wasserstein-2) distance of two Gaussians (Dowson and Landau, 1982).

    |mean_a - mean_b|^2 + tr(cov_a) + tr(cov_b) - 2 tr((cov_a cov_b)^(1/2)), without a matrix root:
    see `root_trace`. Rounding may leave -1e-12 where 0 is meant; it is not hidden.
    """
    away = mean_a - mean_b
    traces = cov_a.trace() + cov_b.trace()
    return float(away @ away + traces - 2 * root_trace(cov_a, cov_b))


def root_trace(cov_a: Tensor, cov_b: Tensor) -> float:
    """tr((A B)^(1/2)) of two positive semidefinite matrices D x D.

    With A = F F^T, the eigenvalues of A B are those of the symmetric F^T B F, whose roots are real
    and are summed. F is Cholesky's factor, or from A's eigenvectors where A has no full rank.
    """
    factor, failed = torch.linalg.cholesky_ex(cov_a)
    if int(failed):
        values, vectors = torch.linalg.eigh(cov_a)
        keep = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
        if not keep.any():
            return 0.0
        factor = vectors[:, keep] * values[keep].sqrt()
        product = factor.T @ cov_b @ factor
    else:
        product = between_triangles(factor, cov_b)
    return float(torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum())


def frechet_to_moments(rows: Features, mean: Tensor, cov: Tensor, ddof: int) -> float:
    """Squared Frechet distance of few features N x D to a Gaussian.

    The rows, centred, are the factor of their own covariance: N x N instead of D x D numbers.

    Raises:
        InputError: numbers that are none, or fewer than 2 rows.
    """
    own_mean, centred = _centred(rows, ddof)
    roots = torch.linalg.eigvalsh(centred @ cov @ centred.T).clamp(min=0).sqrt().sum()
    away = own_mean - mean
    return float(away @ away + centred.square().sum() + cov.trace() - 2 * roots)


def _centred(features: Features, ddof: int) -> tuple[Tensor, Tensor]:
    """Mean D, and rows N x D whose Gram matrix is the covariance."""
    check_finite(features)
    if len(features) < 2:
        raise InputError(f"{len(features)} picture(s) have no covariance", "give at least 2")
    rows = torch.from_numpy(np.asarray(features)).double()
    mean = rows.mean(dim=0)
    return mean, (rows - mean) / (len(rows) - ddof) ** 0.5


def frechet_of_features(a: Features, b: Features, ddof: int) -> float:
    """Squared Frechet distance of two sets of features, N x D and M x D.

    With fewer rows than dimensions, covariances have no full rank; then the roots are the singular
    values of the N x M products of centred rows, which needs no covariance at all.

    Args:
        a, b: features.
        ddof: covariances are divided by N - ddof.

    Raises:
        InputError: numbers that are none, or fewer than 2 rows.
    """
    if min(len(a), len(b)) > a.shape[1]:
        sides = Moments.of(a), Moments.of(b)
        (mean_a, cov_a), (mean_b, cov_b) = ((m.mean, m.covariance(ddof)) for m in sides)
        return frechet_distance(mean_a, cov_a, mean_b, cov_b)
    for few, many in ((a, b), (b, a)):
        if len(few) <= a.shape[1] < len(many):
            moments = Moments.of(many)
            return frechet_to_moments(few, moments.mean, moments.covariance(ddof), ddof)
    (mean_a, rows_a), (mean_b, rows_b) = (_centred(features, ddof) for features in (a, b))
    away = mean_a - mean_b
    roots = torch.linalg.svdvals(rows_a @ rows_b.T).sum()
    traces = rows_a.square().sum() + rows_b.square().sum()
    return float(away @ away + traces - 2 * roots)


@dataclass(frozen=True)
class Kernel:
    """Kernel Inception Distance: mean and standard deviation over subsets, and their size."""

    mean: float
    std: float
    size: int
    subsets: int


def kernel_distance(
    fake: Features, real: Features, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Kernel:
    """Unbiased squared maximum mean discrepancy of random subsets (Binkowski et al., 2018).

    The kernel is (x y / D + 1)^3. Every subset draws `size` of the results, then of the truths,
    without replacement, with numpy's legacy generator.

    Args:
        fake, real: features N x D and M x D.
        subsets: how many are drawn.
        size: of a subset; cut to the smaller of N and M.
        seed: of the draws.

    Raises:
        InputError: fewer than 2 rows.
    """
    size = min(size, len(fake), len(real))
    if size < 2:
        raise InputError("the kernel distance needs at least 2 pictures in each set")
    rng = np.random.RandomState(seed)
    drawn = [
        [rng.choice(len(side), size, replace=False) for side in (fake, real)]
        for _ in range(subsets)
    ]
    x, y = fake.astype(np.float64), real.astype(np.float64)
    if max(len(x), len(y)) <= WHOLE_KERNELS and max(len(x), len(y)) ** 2 < subsets * size**2:
        # pairs are drawn many times over: each kernel is computed once
        whole = _kernel(x, x), _kernel(y, y), _kernel(x, y)
        distances = [
            _squared_mmd(whole[0][np.ix_(i, i)], whole[1][np.ix_(j, j)], whole[2][np.ix_(i, j)])
            for i, j in drawn
        ]
    else:
        distances = [
            _squared_mmd(_kernel(x[i], x[i]), _kernel(y[j], y[j]), _kernel(x[i], y[j]))
            for i, j in drawn
        ]
    return Kernel(float(np.mean(distances)), float(np.std(distances)), size, subsets)


def _squared_mmd(within_x: Numbers, within_y: Numbers, across: Numbers) -> float:
    """Unbiased, of two sets of equal size, from their kernels."""
    n = len(across)
    same = sum(kernel.sum() - np.trace(kernel) for kernel in (within_x, within_y))
    return float(same / (n * (n - 1)) - 2 * across.mean())


def _kernel(x: Numbers, y: Numbers) -> Numbers:
    product: Numbers = (x @ y.T / x.shape[1] + 1) ** 3
    return product


def weighted_kernel_distances(
    fake: Features, real: Features, fake_weights: Numbers, real_weights: Numbers
) -> Numbers:
    """Unbiased squared discrepancy of all rows, once for each column of weights.

    What a resample would give, without computing kernels again; pairs of a row with itself (and so
    with its copies) do not count. Kernels are made block by block.

    Args:
        fake, real: features N x D and M x D.
        fake_weights, real_weights: N x B and M x B, how often each row was drawn.

    Returns:
        B distances.
    """
    within = [
        _weighted_mean(x, w, x, w, same=True)
        for x, w in ((fake, fake_weights), (real, real_weights))
    ]
    return within[0] + within[1] - 2 * _weighted_mean(fake, fake_weights, real, real_weights)


def _weighted_mean(
    x: Features, x_weights: Numbers, y: Features, y_weights: Numbers, same: bool = False
) -> Numbers:
    total, columns = np.zeros(x_weights.shape[1]), y.astype(np.float64)
    for start in range(0, len(x), BLOCK):
        block = slice(start, start + BLOCK)
        kernel = _kernel(x[block].astype(np.float64), columns)
        if same:
            rows = np.arange(len(kernel))
            kernel[rows, start + rows] = 0
        total += (x_weights[block] * (kernel @ y_weights)).sum(axis=0)
    pairs = x_weights.sum(axis=0) * y_weights.sum(axis=0)
    return np.asarray(total / (pairs - (x_weights**2).sum(axis=0) if same else pairs))


@dataclass(frozen=True)
class InceptionScore:
    """Mean and standard deviation (ddof 0) over splits."""

    mean: float
    std: float
    splits: int


def inception_score(
    logits: NDArray[Any], splits: int = 10, shuffle: int | None = None
) -> InceptionScore:
    """exp of the mean divergence of each picture's classes from those of its split (Salimans et
    al., 2016).

    Args:
        logits: N x classes, before softmax.
        splits: consecutive parts, i N // S to (i + 1) N // S; cut to N.
        shuffle: seed of a permutation before splitting, or None.

    Raises:
        InputError: no rows, or numbers that are none.
    """
    if len(logits) == 0:
        raise InputError("the Inception Score needs at least 1 picture")
    check_finite(logits)
    if shuffle is not None:
        logits = logits[np.random.RandomState(shuffle).permutation(len(logits))]
    splits = min(splits, len(logits))
    scores = [_score(part) for part in _parts(logits, splits)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), splits)


def _parts(rows: NDArray[Any], splits: int) -> Iterator[NDArray[Any]]:
    for i in range(splits):
        yield rows[i * len(rows) // splits : (i + 1) * len(rows) // splits]


def _score(logits: NDArray[Any]) -> float:
    logs = torch.log_softmax(torch.from_numpy(np.ascontiguousarray(logits)).double(), dim=1)
    shares = logs.exp()
    mean = shares.mean(dim=0, keepdim=True)
    # a class that no picture of the split can have adds nothing
    divergence = (shares * (logs - mean.clamp(min=torch.finfo(mean.dtype).tiny).log())).sum(dim=1)
    return float(divergence.mean().exp())
