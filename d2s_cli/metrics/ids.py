"""P-IDS and U-IDS: how often a linear classifier takes results for truths (Zhao et al., 2021).

The classifier is a support vector machine with squared hinge loss, fitted by an exact Newton method
instead of a library's: same optimum, faster, and no dependency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s_cli.errors import InputError
from d2s_cli.metrics.distances import check_finite
from d2s_cli.metrics.products import gram

#: the gradient's length, relative to the largest it can have, at which the fit is finished
TOLERANCE = 1e-10
NEWTON_STEPS = 100
#: steps of the inner solver, and what it leaves of the gradient
INNER_STEPS = 200
INNER_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Plane:
    """A fitted classifier: above 0 is taken for real.

    Attributes:
        weights: D, float64.
        bias: its constant term.
        steps: of Newton's method.
    """

    weights: NDArray[np.float64]
    bias: float
    steps: int

    def decide(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Signed distances N, in units of the margin."""
        return np.asarray(features.astype(np.float64) @ self.weights + self.bias)


def fit_plane(real: NDArray[Any], fake: NDArray[Any]) -> Plane:
    """Minimise |w|^2 / 2 + b^2 / 2 + sum max(0, 1 - y (x w + b))^2, y = 1 real, -1 fake.

    Newton's method with a step search; the inner systems are solved by conjugate gradients,
    preconditioned with the system in which every row counts. That one matrix is the only costly
    product, and it is made once, in float32; the optimum is that of float64.

    Args:
        real, fake: features N x D and M x D.

    Raises:
        InputError: NaN, or an empty set.
    """
    if min(len(real), len(fake)) == 0:
        raise InputError("P-IDS and U-IDS need pictures in both sets")
    for features in (real, fake):
        check_finite(features)
    rows = torch.from_numpy(np.concatenate([real, fake]).astype(np.float64))
    # the constant column makes the bias one more weight, penalised as the others are
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
    rows[len(real) :] *= -1
    weights, steps = _minimise(rows)
    return Plane(weights[:-1].numpy(), float(weights[-1]), steps)


def _minimise(rows: Tensor) -> tuple[Tensor, int]:
    """Minimum over w of |w|^2 / 2 + sum max(0, 1 - row w)^2, and the steps that it took."""
    weights = torch.zeros(rows.shape[1], dtype=rows.dtype)
    margins = torch.zeros(len(rows), dtype=rows.dtype)
    largest = 2 * float(rows.norm(dim=1).sum())
    whole: Tensor | None = None
    for step in range(NEWTON_STEPS):
        short = (1 - margins).clamp(min=0)
        gradient = weights - 2 * (rows.T @ short)
        if float(gradient.norm()) <= TOLERANCE * largest:
            return weights, step
        if whole is None:
            whole = _factor(rows)
        change = _solve(rows[short > 0], -gradient, whole)
        moved = rows @ change
        length = _step_length(weights, margins, change, moved)
        if length == 0:
            return weights, step  # rounding is all that is left
        weights = weights + length * change
        margins = margins + length * moved
    return weights, NEWTON_STEPS


def _factor(rows: Tensor) -> Tensor:
    """Cholesky's factor of I + 2 rows^T rows in float32: close enough to guide the solver."""
    system = 2 * gram(rows.float())
    system.diagonal().add_(1)
    raised = torch.finfo(torch.float32).eps * float(system.diagonal().sum())
    while True:  # float32 may lose the 1 beside large features: raise the diagonal until it holds
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(system)
        if not int(failed):
            return factor
        system.diagonal().add_(raised)
        raised *= 10


def _solve(active: Tensor, wanted: Tensor, factor: Tensor) -> Tensor:
    """(I + 2 active^T active)^-1 wanted by preconditioned conjugate gradients."""

    def prepared(vector: Tensor) -> Tensor:
        scale = vector.norm().clamp(min=torch.finfo(torch.float64).tiny)
        column = (vector / scale).float()[:, None]
        solved: Tensor = torch.cholesky_solve(column, factor)[:, 0].double() * scale
        return solved

    solution = torch.zeros_like(wanted)
    left = wanted.clone()
    guided = prepared(left)
    direction, power = guided, left @ guided
    # the nearer the optimum, the more exact: the outer steps then converge ever faster
    goal = INNER_TOLERANCE * float(left.norm())
    for _ in range(INNER_STEPS):
        image = direction + 2 * (active.T @ (active @ direction))
        share = power / (direction @ image)
        solution = solution + share * direction
        left = left - share * image
        if float(left.norm()) <= goal:
            break
        guided = prepared(left)
        before, power = power, left @ guided
        direction = guided + (power / before) * direction
    return solution


def _step_length(weights: Tensor, margins: Tensor, change: Tensor, moved: Tensor) -> float:
    """The exact minimum along a direction: the root of a rising, piecewise linear slope."""

    def slope(length: float) -> tuple[float, float]:
        short = (1 - margins - length * moved).clamp(min=0)
        on = moved[short > 0]
        first = float(weights @ change) + length * square - 2 * float(short @ moved)
        return first, square + 2 * float(on @ on)

    square = float(change @ change)
    length, low, high = 1.0, 0.0, float("inf")
    for _ in range(50):
        first, second = slope(length)
        if first > 0:
            high = length
        else:
            low = length
        following = length - first / second
        if not low <= following <= high:
            following = (low + high) / 2 if np.isfinite(high) else 2 * length
        if abs(following - length) <= 1e-12 * max(length, 1e-12):
            return following
        length = following
    return length


@dataclass(frozen=True)
class Discrimination:
    """What the classifier got wrong on the very pictures that it was fitted on.

    Attributes:
        taken_for_real: N, True where a result is taken for a truth.
        taken_for_fake: M, the other way round.
        preferred: N, True where a result looks more real than its own truth; None if not paired.
    """

    taken_for_real: NDArray[np.bool_]
    taken_for_fake: NDArray[np.bool_]
    preferred: NDArray[np.bool_] | None

    @property
    def uids(self) -> float:
        """Share of both sets that is taken for the other, 0 to 1."""
        return float(np.concatenate([self.taken_for_real, self.taken_for_fake]).mean())

    @property
    def pids(self) -> float:
        """Share of pairs in which the result looks more real, 0 to 1."""
        assert self.preferred is not None
        return float(self.preferred.mean())


def discriminate(real: NDArray[Any], fake: NDArray[Any], paired: bool) -> Discrimination:
    """Fit the classifier and see what it gets wrong.

    Args:
        real, fake: features; row i of both is one picture if `paired`.
        paired: P-IDS is wanted too.

    Raises:
        InputError: NaN; an empty set; paired sets of different sizes.
    """
    if paired and len(real) != len(fake):
        raise InputError(f"P-IDS needs pairs, and got {len(fake)} results for {len(real)} truths")
    plane = fit_plane(real, fake)
    preferred = None
    if paired:
        # a result equal to its truth must not win by rounding: decide on the difference
        away = fake.astype(np.float64) - real.astype(np.float64)
        preferred = np.asarray(away @ plane.weights > 0)
    return Discrimination(plane.decide(fake) > 0, plane.decide(real) <= 0, preferred)
