"""Noise tables and step grids."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2s_cli.diffusion.schedule import SPACINGS, NoiseTable, check_grid, half_log_snr
from d2s_cli.errors import UsageError

BETA = st.floats(1e-7, 0.02)


@st.composite
def grid_requests(draw: st.DrawFn) -> tuple[NoiseTable, int, int | None, str]:
    table = NoiseTable(draw(st.integers(1, 2000)), draw(BETA), draw(BETA))
    tk = draw(st.integers(1, table.steps))
    steps = draw(st.none() | st.integers(1, tk))
    return table, tk, steps, draw(st.sampled_from(SPACINGS))


def test_table_is_linear_in_beta_from_end_to_end() -> None:
    table = NoiseTable(2000)
    assert table.beta[0] == 1e-6
    assert table.beta[-1] == pytest.approx(0.01)
    assert np.allclose(np.diff(table.beta), table.beta[1] - table.beta[0])
    assert table.beta.dtype == table.alpha_bar.dtype == np.float64


def test_alpha_bar_is_the_cumulative_product_of_alpha() -> None:
    table = NoiseTable(50, 1e-4, 0.09)
    product = 1.0
    for t in range(1, 51):
        product *= 1 - table.beta[t - 1]
        assert table.at(t) == pytest.approx(product, rel=1e-12)


def test_steps_count_from_1_and_0_has_no_noise() -> None:
    table = NoiseTable()
    assert table.at(0) == 1.0
    assert table.at(1) == pytest.approx(1 - 1e-6)
    # the paper's start keeps most of the guide
    assert table.at(200) == pytest.approx(0.82, abs=0.01)


@pytest.mark.parametrize("t", [-1, 1001])
def test_a_step_outside_the_table_is_an_error(t: int) -> None:
    with pytest.raises(UsageError, match="outside"):
        NoiseTable(1000).at(t)


@given(st.integers(0, 98), st.floats(0.01, 0.99))
def test_a_fraction_of_a_step_lies_between_its_neighbours(t: int, part: float) -> None:
    table = NoiseTable(100, 1e-4, 0.09)
    assert table.at(t) > table.at_fraction(t + part) > table.at(t + 1)
    assert table.at_fraction(float(t)) == table.at(t)


@settings(max_examples=100, deadline=None)
@given(grid_requests())
def test_grids_rise_strictly_to_exactly_1(
    request_: tuple[NoiseTable, int, int | None, str],
) -> None:
    table, tk, steps, spacing = request_
    grid = table.grid(tk, steps, spacing)
    assert len(grid) == (tk if steps is None else steps) + 1
    assert grid[0] == pytest.approx(table.at(tk), rel=1e-9)
    assert grid[-1] == 1.0
    assert all(a < b for a, b in pairwise(grid))
    check_grid(grid)


def test_a_grid_of_all_steps_is_the_table_backwards() -> None:
    table = NoiseTable()
    assert table.grid(200) == [table.at(t) for t in range(200, -1, -1)]


def test_logsnr_spacing_is_even_in_half_log_snr_down_to_step_1() -> None:
    table = NoiseTable()
    grid = table.grid(200, 12, "logsnr")
    gaps = np.diff([half_log_snr(level) for level in grid[:-1]])
    assert np.allclose(gaps, gaps[0])
    assert grid[-2] == pytest.approx(table.at(1))


def test_half_log_snr_without_noise_is_infinite() -> None:
    assert half_log_snr(1.0) == math.inf
    assert half_log_snr(0.5) == 0.0


@pytest.mark.parametrize(
    ("steps", "low", "high"),
    [(0, 1e-6, 0.01), (10, 0.0, 0.01), (10, 1e-6, 1.0), (10, -0.1, 0.01)],
)
def test_impossible_tables_are_errors(steps: int, low: float, high: float) -> None:
    with pytest.raises(UsageError):
        NoiseTable(steps, low, high)


@pytest.mark.parametrize(
    ("tk", "steps", "spacing"),
    [(0, None, "time"), (101, None, "time"), (50, 0, "time"), (50, 51, "time"), (50, 5, "cosine")],
)
def test_impossible_grids_are_errors_that_say_what_to_do(
    tk: int, steps: int | None, spacing: str
) -> None:
    with pytest.raises(UsageError) as caught:
        NoiseTable(100).grid(tk, steps, spacing)
    assert caught.value.hint


@pytest.mark.parametrize(
    "grid", [[], [1.0], [0.5, 0.9], [0.0, 1.0], [0.5, 0.5, 1.0], [0.9, 0.5, 1.0]]
)
def test_samplers_refuse_grids_that_would_leave_noise(grid: list[float]) -> None:
    with pytest.raises(ValueError, match="grid"):
        check_grid(grid)
