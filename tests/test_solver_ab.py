"""benchmarks/solver_ab.py: when a setting counts as good as the whole table."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def solver_ab(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("solver_ab")


def psnr_of(bench: ModuleType, values: np.ndarray) -> object:
    return bench.Measured({"psnr": values}, {}, 1.0)


def test_a_setting_holds_within_the_spread_of_the_references_seeds(solver_ab: ModuleType) -> None:
    rng = np.random.default_rng(0)
    crops = rng.normal(20, 3, 50)
    seeds = [psnr_of(solver_ab, crops + 0.1), psnr_of(solver_ab, crops - 0.1)]
    for change, holds in ((0.3, True), (-0.19, True), (-0.3, False)):
        found = solver_ab.compare("psnr", seeds, psnr_of(solver_ab, crops + change))
        assert found.value == pytest.approx(change)
        assert found.spread == pytest.approx(0.2)
        assert found.holds == holds
    noisy = psnr_of(solver_ab, crops + rng.normal(0, 1, 50))
    found = solver_ab.compare("psnr", seeds, noisy)
    # two standard errors of a mean of 50 to either side
    assert found.high - found.low == pytest.approx(4 / 50**0.5, rel=0.3)


def test_frechet_distances_are_resampled_with_their_truths(solver_ab: ModuleType) -> None:
    rng = np.random.default_rng(1)
    truth, noise = rng.normal(size=(40, 6)), 0.1 * rng.normal(size=(3, 40, 6))
    sets = [
        solver_ab.Measured({"frechet": truth + shift}, {"frechet": truth}, 1.0)
        for shift in (noise[0], noise[1], noise[2] + 1)
    ]
    found = solver_ab.compare("frechet", sets[:2], sets[2])
    assert not found.holds
    assert 4 < found.low < found.value < found.high < 8
    assert solver_ab.compare("frechet", sets[:2], sets[0]).holds
