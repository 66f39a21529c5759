"""The published code's outputs, reproduced with weights of fixed numbers (see golden_weights.py).

They show that the loader, the network and the samplers are the published ones; they say nothing
about picture quality.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from torch import Tensor

from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.loss import training_loss
from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNetConfig

LIMIT = 1e-4
Arrays = dict[str, Tensor]


def arrays(name: str) -> Arrays:
    with np.load(GOLDEN / name) as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.fixture(scope="module")
def refiner(published_checkpoint: Path) -> Refiner:
    return load_refiner(published_checkpoint)


@pytest.fixture(scope="module")
def palette() -> Arrays:
    return arrays("palette.npz")


@pytest.fixture(scope="module")
def injection() -> Arrays:
    return arrays("palette_injection.npz")


def noised(x: Tensor, eps: Tensor, hole: Tensor, image: Tensor, level: Tensor) -> Tensor:
    """State at a noise level; known pixels are those of the image."""
    return hole * (level.sqrt() * x + (1 - level).sqrt() * eps) + (1 - hole) * image


def test_a_published_checkpoint_loads_as_the_default_network(refiner: Refiner) -> None:
    assert refiner.config.unet == UNetConfig()
    assert refiner.config.prediction == "eps"


@pytest.mark.parametrize("i", range(3))
def test_predicted_noise_is_the_published_networks(
    refiner: Refiner, palette: Arrays, i: int
) -> None:
    x0, hole, eps_m, eps = (palette[f"fwd_64_{k}"] for k in ("x0", "mask", "epsm", "eps"))
    level = palette[f"fwd_64_{i}_gamma"]
    out = refiner.predict_noise(
        hole * eps_m + (1 - hole) * x0, noised(x0, eps, hole, x0, level), level.expand(len(x0))
    )
    assert relative_error(out, palette[f"fwd_64_{i}_out"]) < LIMIT


@pytest.mark.parametrize("i", range(3))
def test_injection_mixes_the_guides_features_as_eq_15_to_17(
    refiner: Refiner, injection: Arrays, i: int
) -> None:
    names = ("x0", "mask", "epsm", "guide", "eps", "eps2")
    x0, hole, eps_m, guide, eps, eps2 = (injection[f"inj_64_{k}"] for k in names)
    level = injection[f"inj_64_{i}_gamma"]
    out = refiner.predict_noise(
        hole * eps_m + (1 - hole) * x0,
        noised(guide, eps, hole, x0, level),
        level.expand(len(x0)),
        guide_t=noised(guide, eps2, hole, x0, level),
    )
    assert relative_error(out, injection[f"inj_64_{i}_out"]) < LIMIT


def test_training_loss_is_the_published_one(refiner: Refiner, palette: Arrays) -> None:
    names = ("x0", "mask", "epsm", "noise")
    draws = [palette[f"trn_{k}"] for k in names]
    with torch.no_grad():
        loss = training_loss(refiner, *draws, palette["trn_gamma"].flatten())
    assert relative_error(loss, palette["trn_loss"]) < LIMIT


def test_training_table_is_the_published_one(palette: Arrays) -> None:
    table = torch.from_numpy(NoiseTable(2000).alpha_bar)
    assert relative_error(table, palette["train_gammas"].double()) < LIMIT


def test_training_level_lies_between_two_levels_of_the_table(palette: Arrays) -> None:
    table = torch.from_numpy(NoiseTable(2000).alpha_bar)
    t, u = palette["trn_t"], palette["trn_u"].flatten().double()
    levels = table[t - 1] + u * (table[t] - table[t - 1])
    assert relative_error(levels, palette["trn_gamma"].flatten().double()) < LIMIT


def replay(*draws: Tensor) -> Callable[[tuple[int, ...]], Tensor]:
    waiting = iter(draws)
    return lambda shape: next(waiting)


def test_sampler_without_a_guide_is_palettes(refiner: Refiner, palette: Arrays) -> None:
    out = refiner.refine(
        palette["smp_x0"],
        palette["smp_mask"],
        None,
        schedule=NoiseTable(10, 1e-4, 0.09),
        noise=replay(palette["smp_epsm"], palette["smp_start"], *palette["smp_noises"]),
    )
    assert relative_error(out, palette["smp_out"]) < LIMIT
