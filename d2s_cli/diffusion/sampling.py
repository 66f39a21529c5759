"""Samplers: plain functions `(denoise, x, grid, ...) -> x_0`.

`denoise(x, alpha_bar)` returns the estimate of x_0 for the state `x` at noise level alpha_bar; it
alone knows about networks, holes, guides and tiles. `grid` holds the noise levels to visit, from
that of `x` up to 1.0 (see schedule.py), so every solver runs on any grid and any start. The last
step always returns the x_0 estimate itself: no noise is left over. Coefficients are Python floats
worked out in float64; `x` keeps its own type (float32).

With a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar), x = a x_0 + s eps; lambda = log(a / s).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from d2s_cli.diffusion.schedule import check_grid, half_log_snr

Denoise = Callable[[Tensor, float], Tensor]
#: gives a standard normal tensor shaped like the state
Noise = Callable[[], Tensor]


def ddpm(denoise: Denoise, x: Tensor, grid: Sequence[float], noise: Noise) -> Tensor:
    """Ancestral sampling with the Gaussian posterior's mean and variance (eq. 6 and 10)."""
    check_grid(grid)
    for now, after in pairwise(grid):
        x_0 = denoise(x, now)
        if after == 1.0:
            return x_0
        alpha = now / after
        from_x_0 = math.sqrt(after) * (1 - alpha) / (1 - now)
        from_x_t = math.sqrt(alpha) * (1 - after) / (1 - now)
        deviation = math.sqrt((1 - alpha) * (1 - after) / (1 - now))
        x = from_x_0 * x_0 + from_x_t * x + deviation * noise()
    raise AssertionError("unreachable: a checked grid ends at 1.0")


def ddpm_beta(denoise: Denoise, x: Tensor, grid: Sequence[float], noise: Noise) -> Tensor:
    """Ancestral sampling as eq. 13 writes it: variance beta_t, no clipping of x_0.

    `denoise` must not clip, or eps_hat would not be the network's.
    """
    check_grid(grid)
    for now, after in pairwise(grid):
        x_0 = denoise(x, now)
        alpha = now / after
        eps = (x - math.sqrt(now) * x_0) / math.sqrt(1 - now)
        x = (x - (1 - alpha) / math.sqrt(1 - now) * eps) / math.sqrt(alpha)
        if after < 1.0:
            x = x + math.sqrt(1 - alpha) * noise()
    return x


def ddim(
    denoise: Denoise, x: Tensor, grid: Sequence[float], noise: Noise, eta: float = 0.0
) -> Tensor:
    """DDIM: first order; eta = 0 is deterministic, eta = 1 has the posterior's variance."""
    check_grid(grid)
    for now, after in pairwise(grid):
        x_0 = denoise(x, now)
        if after == 1.0:
            return x_0
        eps = (x - math.sqrt(now) * x_0) / math.sqrt(1 - now)
        variance = eta**2 * (1 - now / after) * (1 - after) / (1 - now)
        x = math.sqrt(after) * x_0 + math.sqrt(1 - after - variance) * eps
        if variance > 0:
            x = x + math.sqrt(variance) * noise()
    raise AssertionError("unreachable: a checked grid ends at 1.0")


def dpmpp_2m(
    denoise: Denoise, x: Tensor, grid: Sequence[float], noise: Noise, eta: float = 0.0
) -> Tensor:
    """DPM-Solver++(2M) in data prediction: second order, multistep; eta > 0 is its SDE form.

    The first step and the last are first order (the last is the jump to no noise). eta = 1 solves
    the reverse-time SDE with the forward process's own noise.
    """
    check_grid(grid)
    previous: Tensor | None = None
    h_previous = math.nan
    for now, after in pairwise(grid):
        x_0 = denoise(x, now)
        if after == 1.0:
            return x_0
        h = half_log_snr(after) - half_log_snr(now)
        step = -math.expm1(-(1 + eta) * h)
        scale = math.sqrt((1 - after) / (1 - now)) * math.exp(-eta * h)
        estimate = x_0
        if previous is not None:
            # linear extrapolation of x_0 to the middle of the step, in lambda
            estimate = x_0 + (0.5 * h / h_previous) * (x_0 - previous)
        x = scale * x + (math.sqrt(after) * step) * estimate
        if eta > 0:
            x = x + math.sqrt((1 - after) * -math.expm1(-2 * eta * h)) * noise()
        previous, h_previous = x_0, h
    raise AssertionError("unreachable: a checked grid ends at 1.0")


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, grid: Sequence[float], noise: Noise) -> Tensor:
    """The SDE form of DPM-Solver++(2M), eta = 1."""
    return dpmpp_2m(denoise, x, grid, noise, eta=1.0)


def unipc(denoise: Denoise, x: Tensor, grid: Sequence[float], noise: Noise) -> Tensor:
    """UniPC of order 2 in data prediction (Zhao et al. 2023): DPM-Solver++(2M) as predictor, and a
    corrector that uses the estimate at the new level for the step just made, at no further cost.

    Deterministic. The first step and the last are first order.
    """
    check_grid(grid)
    older: Tensor | None = None
    h_older = math.nan
    x_0 = denoise(x, grid[0])
    for now, after in pairwise(grid):
        if after == 1.0:
            return x_0
        h = half_log_snr(after) - half_log_snr(now)
        shrink, step = math.sqrt((1 - after) / (1 - now)), -math.expm1(-h)
        first_order = shrink * x + (math.sqrt(after) * step) * x_0
        ahead = first_order
        ratio = math.nan
        if older is not None:
            ratio = -h_older / h
            ahead = first_order + (math.sqrt(after) * step * 0.5 / ratio) * (older - x_0)
        new_x_0 = denoise(ahead, after)
        x = first_order + math.sqrt(after) * step * _correction(x_0, older, new_x_0, h, ratio)
        older, h_older, x_0 = x_0, h, new_x_0
    raise AssertionError("unreachable: a checked grid ends at 1.0")


def _correction(x_0: Tensor, older: Tensor | None, new: Tensor, h: float, ratio: float) -> Tensor:
    """What UniC adds to a first-order step, in units of it: weights that make the step exact for an
    x_0 that is a polynomial in lambda through the known estimates."""
    whole = -math.expm1(-h)
    # moments of exp(l) l^k over the step, divided by that of k = 0
    first = (h - whole) / (h * whole)
    if older is None:
        return (new - x_0) * first
    second = 2 * (h * h / 2 - h + whole) / (h * h * whole)
    # solve [1 1; ratio 1] w = [first, second]
    weight_older = (first - second) / (1 - ratio)
    weight_new = first - weight_older
    return (weight_older / ratio) * (older - x_0) + weight_new * (new - x_0)


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Sequence[float], Noise], Tensor]] = {
    "ddpm": ddpm,
    "ddpm-beta": ddpm_beta,
    "ddim": ddim,
    "dpmpp": dpmpp_2m,
    "dpmpp-sde": dpmpp_2m_sde,
    "unipc": unipc,
}
#: samplers that draw noise at every step; the others are deterministic after their start
STOCHASTIC = frozenset({"ddpm", "ddpm-beta", "dpmpp-sde"})
