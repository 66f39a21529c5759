"""Samplers on Gaussian data, where the ideal denoiser and every solution are known.

With x_0 ~ N(MU, SD^2), the state at noise level ab has mean sqrt(ab) MU and variance
ab SD^2 + 1 - ab, and the deterministic samplers' ODE keeps a state's distance from the mean,
counted in standard deviations.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from d2s_cli.diffusion.sampling import SAMPLERS, STOCHASTIC, ddim, dpmpp_2m
from d2s_cli.diffusion.schedule import NoiseTable, half_log_snr

MU, SD = 0.3, 0.5


def deviation(ab: float) -> float:
    return math.sqrt(ab * SD**2 + 1 - ab)


def ideal(x: Tensor, ab: float) -> Tensor:
    """E[x_0 | x]."""
    return MU + math.sqrt(ab) * SD**2 / deviation(ab) ** 2 * (x - math.sqrt(ab) * MU)


def logsnr_grid(low: float, high: float, steps: int) -> list[float]:
    lams = np.linspace(half_log_snr(low), half_log_snr(high), steps + 1)
    return [float(1 / (1 + np.exp(-2 * lam))) for lam in lams] + [1.0]


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def ode_error(sampler: str, steps: int) -> float:
    """Error of `steps` steps from 0.1 to 0.99.

    The jump from there to 1.0 is no step of the ODE, it returns the denoised state: so the result
    is compared with the denoised exact solution at 0.99, and only the steps before it count.
    """
    grid = logsnr_grid(0.1, 0.99, steps)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    start = math.sqrt(grid[0]) * MU + deviation(grid[0]) * z
    last = grid[-2]
    exact = ideal(math.sqrt(last) * MU + deviation(last) * z, last)
    return float((SAMPLERS[sampler](ideal, start, grid, no_noise) - exact).abs().max())


def test_ddim_is_first_order() -> None:
    assert ode_error("ddim", 40) / ode_error("ddim", 80) == pytest.approx(2, rel=0.1)


def test_dpmpp_is_second_order() -> None:
    assert ode_error("dpmpp", 40) / ode_error("dpmpp", 80) == pytest.approx(4, rel=0.15)
    assert ode_error("dpmpp", 20) < ode_error("ddim", 20) / 4


def test_unipc_is_third_order_and_better_than_dpmpp() -> None:
    assert ode_error("unipc", 40) / ode_error("unipc", 80) == pytest.approx(8, rel=0.2)
    assert all(ode_error("unipc", steps) < ode_error("dpmpp", steps) for steps in (12, 20, 40))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - STOCHASTIC))
def test_deterministic_samplers_end_at_the_odes_solution(sampler: str) -> None:
    table = NoiseTable()
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    grid = table.grid(1000, 500)
    start = math.sqrt(grid[0]) * MU + deviation(grid[0]) * z
    out = SAMPLERS[sampler](ideal, start, grid, no_noise)
    assert torch.allclose(out, MU + SD * z, atol=0.02)


@pytest.mark.parametrize("sampler", sorted(STOCHASTIC))
@pytest.mark.parametrize("tk", [200, 1000])
def test_stochastic_samplers_reproduce_the_datas_mean_and_variance(sampler: str, tk: int) -> None:
    generator = torch.Generator().manual_seed(1)

    def normal() -> Tensor:
        return torch.randn(60_000, generator=generator, dtype=torch.float64)

    grid = NoiseTable().grid(tk, 200)
    start = math.sqrt(grid[0]) * MU + deviation(grid[0]) * normal()
    out = SAMPLERS[sampler](ideal, start, grid, normal)
    # 60000 values: the mean's standard error is 0.002, the deviation's 0.3 %
    assert float(out.mean()) == pytest.approx(MU, abs=0.01)
    assert float(out.std()) == pytest.approx(SD, rel=0.03)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_ends_on_the_estimate_without_noise(sampler: str) -> None:
    truth = torch.linspace(-1, 1, 50, dtype=torch.float64)
    drawn = torch.Generator().manual_seed(0)
    out = SAMPLERS[sampler](
        lambda x, ab: truth,
        torch.randn(50, generator=drawn, dtype=torch.float64),
        NoiseTable().grid(200, 6),
        lambda: torch.randn(50, generator=drawn, dtype=torch.float64),
    )
    assert torch.allclose(out, truth, atol=1e-9)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_grid_that_leaves_noise_is_refused(sampler: str) -> None:
    with pytest.raises(ValueError, match="grid"):
        SAMPLERS[sampler](ideal, torch.zeros(3), [0.5, 0.9], no_noise)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_network_is_asked_once_a_step_at_the_grids_levels(sampler: str) -> None:
    asked: list[float] = []

    def denoise(x: Tensor, ab: float) -> Tensor:
        asked.append(ab)
        return ideal(x, ab)

    grid = NoiseTable().grid(200, 7)
    SAMPLERS[sampler](denoise, torch.zeros(3), grid, lambda: torch.zeros(3))
    assert asked == grid[:-1]


def test_ddim_with_eta_1_has_the_posteriors_variance() -> None:
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    grid = NoiseTable().grid(200, 10)
    draws = [lambda g=g: torch.randn(9, generator=g, dtype=torch.float64) for g in generators]
    same = ddim(ideal, start, grid, draws[0], eta=1.0)
    assert torch.allclose(same, SAMPLERS["ddpm"](ideal, start, grid, draws[1]))


def test_dpmpp_in_one_step_is_ddim() -> None:
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    grid = [0.6, 0.9, 1.0]
    assert torch.allclose(
        dpmpp_2m(ideal, start, grid, no_noise), ddim(ideal, start, grid, no_noise)
    )
