"""DiffIR's second stage, from checkpoints as Lightning 1.2.9 writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from foreign_classes import foreign_classes
from golden_weights import fill_state_dict
from torch import Tensor

import d2s_cli as d2s
from d2s_cli.errors import WeightsError
from d2s_cli.guides.diffir import config_from_tensors
from d2s_cli.guides.diffir_network import DiffIR, DiffIRConfig
from d2s_cli.guides.network import NetworkGuide

TINY = DiffIRConfig(
    width=4,
    encoder=(1, 2, 1, 3),
    decoder=(1, 2, 1),
    heads=(1, 1, 2, 4),
    hidden=(7, 15, 31, 63),
    prior=16,
    describer=4,
    describer_blocks=2,
)
OTHERS = [
    TINY,
    replace(TINY, bias=True, norm_bias=False, input_skip=True, steps=3, denoiser_layers=3),
    replace(TINY, width=6, encoder=(2, 1, 1, 5), decoder=(2, 1, 1), describer_blocks=8),
]
Arrays = dict[str, Tensor]


def noise_table(steps: int) -> Arrays:
    """The published table: square roots of the betas evenly spaced, posterior means of DDPM."""
    betas = np.linspace(0.1**0.5, 0.99**0.5, steps) ** 2
    kept = np.cumprod(1 - betas)
    before = np.append(1.0, kept[:-1])
    columns = {
        "betas": betas,
        "alphas_cumprod": kept,
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - kept),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - kept),
    }
    return {f"generator.diffusion.{k}": torch.from_numpy(v).float() for k, v in columns.items()}


def filled_weights(spec: dict[str, list[object]], steps: int = 4) -> Arrays:
    """Fixed numbers; without the factor 8 the prior would hardly change the blocks."""
    state = {k: torch.from_numpy(v) for k, v in fill_state_dict(spec).items()}
    state |= {k: v * 8 for k, v in state.items() if k.endswith(".kernel.0.weight")}
    # the denoiser and its condition are saved twice
    for first, second in (("denoise", "diffusion.model"), ("condition", "diffusion.condition")):
        for key in [k for k in state if k.startswith(f"generator.{first}.")]:
            state[key.replace(first, second, 1)] = state[key]
    return state | noise_table(steps)


def write_lightning(path: Path, state: Arrays) -> Path:
    """The file that training leaves: what it monitored, its settings, its other networks."""
    others = {
        "generatorS1.G.patch_embed.proj.weight": torch.ones(2, 4, 3, 3),
        "generatorS1.E.E.0.weight": torch.ones(2, 2, 3, 3),
        "discriminator.model0.0.weight": torch.ones(2, 3, 4, 4),
        "loss_resnet_pl.impl.conv1.weight": torch.ones(2, 3, 7, 7),
        "val_evaluator.scores.ssim.window": torch.ones(1, 1, 11, 11),
    }
    origins = (
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "omegaconf.dictconfig.DictConfig",
    )
    with foreign_classes(*origins) as (callback, settings):
        hyper_parameters = settings()
        hyper_parameters.__dict__["_content"] = {"generator": {"kind": "DiffIRS2"}}
        torch.save(
            {
                "epoch": 39,
                "global_step": 100000,
                "pytorch-lightning_version": "1.2.9",
                "state_dict": state | others,
                "callbacks": {callback: {"monitor": "val_ssim_fid100_f1_total_mean"}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
                "lr_schedulers": [],
                "hparams_name": "config",
                "hyper_parameters": hyper_parameters,
                "hparams_type": settings,
            },
            path,
        )
    return path


def tiny_guide(folder: Path, config: DiffIRConfig = TINY, **options: object) -> NetworkGuide:
    network = DiffIR(config)
    shapes = {
        f"generator.{k}": [tuple(v.shape), "float32"] for k, v in network.state_dict().items()
    }
    state = filled_weights(shapes, config.steps)
    return d2s.load_guide("diffir", write_lightning(folder / "last.ckpt", state), **options)


def scene(height: int, width: int, count: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height)
    image = torch.rand(count, 3, height, width, generator=generator) * 2 - 1
    hole = torch.zeros(count, 1, height, width)
    hole[..., height // 4 : height // 2, width // 3 :] = 1
    return image, hole


@pytest.fixture(scope="module")
def golden() -> Arrays:
    with np.load(GOLDEN / "diffir.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])).float() for key in file.files}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = json.loads((GOLDEN / "diffir.spec.json").read_text())
    folder = tmp_path_factory.mktemp("diffir")
    return write_lightning(folder / "last.ckpt", filled_weights(spec))


def test_a_published_checkpoint_gives_the_published_result(
    checkpoint: Path, golden: Arrays
) -> None:
    asked = []

    def noise(shape: tuple[int, ...]) -> Tensor:
        asked.append(shape)
        return golden["noise"]

    guide = d2s.load_guide("diffir", checkpoint, noise=noise)
    assert guide.network.config == DiffIRConfig()
    image, hole = golden["image"], golden["mask"]
    masked = torch.cat([image * (1 - hole), hole], dim=1)
    with torch.inference_mode():
        description = guide.network.condition(masked)
        prior = guide.network.prior(masked, golden["noise"])
        predicted = guide.network(masked, golden["noise"])
    assert (description - golden["cpen_out"]).abs().max() < 1e-5
    assert (prior - golden["ipr"]).abs().max() < 1e-5
    assert (predicted - golden["predicted"]).abs().max() < 5e-5

    filled = guide(image * 2 - 1, hole)
    inside = hole.expand_as(image) > 0
    assert asked == [(1, 256)]
    assert (filled - (golden["predicted"] * 2 - 1).clamp(-1, 1))[inside].abs().max() < 1e-4
    assert torch.equal(filled[~inside], (image * 2 - 1)[~inside])


def test_the_large_networks_sizes_are_read_off_the_tensors() -> None:
    large = replace(DiffIRConfig(), encoder=(1, 1, 1, 20), describer_blocks=8)
    with torch.device("meta"):
        network = DiffIR(large)
    assert config_from_tensors(network.state_dict()) == large
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 49.5


@pytest.mark.parametrize("config", OTHERS)
def test_other_sizes_load_and_run(tmp_path: Path, config: DiffIRConfig) -> None:
    guide = tiny_guide(tmp_path, config)
    assert guide.network.config == config
    image, hole = scene(16, 24)
    filled = guide(image, hole)
    assert filled[hole.expand_as(filled) > 0].std() > 0


@pytest.mark.parametrize(("height", "width"), [(37, 29), (5, 40), (8, 8)])
def test_any_size_is_filled_and_known_pixels_stay(tmp_path: Path, height: int, width: int) -> None:
    image, hole = scene(height, width)
    filled = tiny_guide(tmp_path)(image, hole)
    known = hole.expand_as(image) == 0
    assert filled.shape == image.shape
    assert torch.equal(filled[known], image[known])
    assert not torch.equal(filled, image)


def test_the_hidden_pixels_are_not_looked_at(tmp_path: Path) -> None:
    guide = tiny_guide(tmp_path)
    image, hole = scene(16, 16)
    assert torch.equal(guide(image, hole), guide(torch.where(hole > 0, 0.7, image), hole))


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    guide = tiny_guide(tmp_path)
    image, hole = scene(24, 16, count=2)
    both = guide(image, hole, seed=5)
    assert torch.equal(both, guide(image, hole, seed=5))
    assert not torch.equal(both, guide(image, hole, seed=6))
    alone = torch.cat([guide(image[i : i + 1], hole[i : i + 1], seed=5) for i in range(2)])
    assert (both - alone).abs().max() < 1e-5


def test_a_state_dict_without_the_prefix_is_the_same(tmp_path: Path) -> None:
    guide = tiny_guide(tmp_path)
    torch.save(guide.network.state_dict(), tmp_path / "bare.pth")
    image, hole = scene(16, 16)
    assert torch.equal(
        guide(image, hole), d2s.load_guide("diffir", tmp_path / "bare.pth")(image, hole)
    )


def whole() -> Arrays:
    return {f"generator.{k}": v for k, v in DiffIR(TINY).state_dict().items()}


WRONG = {
    "another generator": (
        lambda: {"generator.model.1.ffc.convl2l.weight": torch.ones(2)},
        r"'G\.\S+' is missing",
    ),
    "the first stage": (
        lambda: {k: v for k, v in whole().items() if ".denoise." not in k},
        "second stage's file",
    ),
    "one tensor more": (
        lambda: whole() | {"generator.G.refinement.0.weight": torch.ones(2)},
        r"unexpected: G\.refinement\.0\.weight",
    ),
    "one tensor less": (
        lambda: {k: v for k, v in whole().items() if k != "generator.condition.mlp.2.bias"},
        r"missing: condition\.mlp\.2\.bias",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_named_with_its_keys(tmp_path: Path, what: str) -> None:
    state, said = WRONG[what]
    path = write_lightning(tmp_path / "wrong.ckpt", state())
    with pytest.raises(WeightsError, match=said) as raised:
        d2s.load_guide("diffir", path)
    assert str(path) in str(raised.value)
    assert raised.value.exit_code == 5
