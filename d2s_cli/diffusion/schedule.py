"""Noise tables and step grids, in float64.

A *table* is a list of noise levels alpha_bar_1 > ... > alpha_bar_T. A *grid* is what a sampler
walks: noise levels from the start, alpha_bar(T_k), up to exactly 1.0 (no noise), so that no run can
end with noise left over. The network is told alpha_bar itself, so a grid need not lie on a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import UsageError

SPACINGS = ("time", "logsnr")


@dataclass(frozen=True)
class NoiseTable:
    """Linear beta from `beta_start` to `beta_end` over `steps` steps.

    The defaults are the paper's; Palette's own sampling table is NoiseTable(1000, 1e-4, 0.09).

    Attributes:
        steps: T, the length of the table.
        beta_start: beta_1.
        beta_end: beta_T.
    """

    steps: int = 1000
    beta_start: float = 1e-6
    beta_end: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"a noise table needs at least 1 step, not {self.steps}")
        if not 0 < self.beta_start < 1 or not 0 < self.beta_end < 1:
            raise UsageError(
                f"betas must lie between 0 and 1, not {self.beta_start} and {self.beta_end}"
            )

    @cached_property
    def beta(self) -> NDArray[np.float64]:
        """beta_1 ... beta_T, shape (T,)."""
        beta = np.linspace(self.beta_start, self.beta_end, self.steps)
        return np.asarray(beta, np.float64)

    @cached_property
    def alpha_bar(self) -> NDArray[np.float64]:
        """alpha_bar_1 ... alpha_bar_T, shape (T,), falling."""
        return np.asarray(np.cumprod(1.0 - self.beta), np.float64)

    def at(self, t: int) -> float:
        """alpha_bar of the 1-based step t; 1.0 for t = 0."""
        if not 0 <= t <= self.steps:
            raise UsageError(f"step {t} is outside the noise table's 0 to {self.steps}")
        return 1.0 if t == 0 else float(self.alpha_bar[t - 1])

    def at_fraction(self, t: float) -> float:
        """alpha_bar between two steps, linear in log alpha_bar."""
        low = math.floor(t)
        if low == t:
            return self.at(low)
        a, b = math.log(self.at(low)), math.log(self.at(low + 1))
        return math.exp(a + (t - low) * (b - a))

    def grid(self, tk: int, steps: int | None = None, spacing: str = "time") -> list[float]:
        """Noise levels from alpha_bar(tk) to 1.0 for `steps` network evaluations.

        Args:
            tk: step to start from, 1 to T.
            steps: evaluations; None takes every step of the table (tk of them).
            spacing: "time", even in t; or "logsnr", even in half log-SNR from tk to step 1, and
                then the jump to 1.0.

        Returns:
            `steps + 1` floats, strictly rising, the last 1.0.
        """
        if not 1 <= tk <= self.steps:
            raise UsageError(
                f"T_k must lie between 1 and the table's {self.steps} steps, not {tk}",
                f"try: --tk {min(max(tk, 1), self.steps)}, or a longer table: --table-steps {tk}",
            )
        steps = tk if steps is None else steps
        if not 1 <= steps <= tk:
            raise UsageError(
                f"cannot take {steps} steps from T_k = {tk}: it must be 1 to {tk}",
                f"try: --steps {tk}",
            )
        if spacing == "time":
            return [self.at_fraction(tk * (1 - i / steps)) for i in range(steps)] + [1.0]
        if spacing == "logsnr":
            ends = half_log_snr(self.at(tk)), half_log_snr(self.at(1))
            lams = np.linspace(*ends, steps) if steps > 1 else [ends[0]]
            return [1.0 / (1.0 + math.exp(-2.0 * lam)) for lam in lams] + [1.0]
        raise UsageError(f"unknown spacing {spacing!r}", f"one of: {', '.join(SPACINGS)}")


def half_log_snr(alpha_bar: float) -> float:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)); infinity without noise."""
    if alpha_bar >= 1.0:
        return math.inf
    return 0.5 * math.log(alpha_bar / (1.0 - alpha_bar))


def check_grid(grid: Sequence[float]) -> None:
    """Raise ValueError unless the grid rises strictly within (0, 1] and ends at 1.0."""
    if len(grid) < 2 or grid[-1] != 1.0 or grid[0] <= 0:
        raise ValueError(f"a grid is two or more noise levels that end at 1.0, not {list(grid)}")
    if any(b <= a for a, b in itertools.pairwise(grid)):
        raise ValueError("the noise levels of a grid must rise")
