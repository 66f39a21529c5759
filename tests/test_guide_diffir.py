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
from guide_checks import changed_pixels, check_guide, run_inpaint, scene
from torch import Tensor

import d2s_cli as d2s
from d2s_cli.errors import WeightsError
from d2s_cli.guides.diffir import DiffIRGuide, config_from_tensors
from d2s_cli.guides.diffir_network import DiffIR, DiffIRConfig

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


def tiny_guide(folder: Path, config: DiffIRConfig = TINY) -> DiffIRGuide:
    network = DiffIR(config)
    shapes = {
        f"generator.{k}": [tuple(v.shape), "float32"] for k, v in network.state_dict().items()
    }
    state = filled_weights(shapes, config.steps)
    return d2s.load_guide("diffir", write_lightning(folder / "last.ckpt", state))


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
    guide = d2s.load_guide("diffir", checkpoint)
    assert guide.network.config == DiffIRConfig()
    image, hole = golden["image"], golden["mask"]
    masked = torch.cat([image * (1 - hole), hole], dim=1)
    asked = []

    def noise(shape: tuple[int, ...]) -> Tensor:
        asked.append(shape)
        return golden["noise"]

    with torch.inference_mode():
        description = guide.network.condition(masked)
        prior = guide.network.prior(masked, golden["noise"])
        filled = guide.sample(image * 2 - 1, hole, noise=noise)
    assert asked == [(1, 256)]
    assert (description - golden["cpen_out"]).abs().max() < 1e-5
    assert (prior - golden["ipr"]).abs().max() < 1e-5
    assert ((filled + 1) / 2 - golden["predicted"]).abs().max() < 5e-5


def test_the_large_networks_sizes_are_read_off_the_tensors() -> None:
    large = replace(DiffIRConfig(), encoder=(1, 1, 1, 20), describer_blocks=8)
    with torch.device("meta"):
        network = DiffIR(large)
    assert config_from_tensors(network.state_dict()) == large
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 49.5


@pytest.mark.parametrize("config", OTHERS)
def test_other_networks_load_and_fill_any_size(tmp_path: Path, config: DiffIRConfig) -> None:
    guide = tiny_guide(tmp_path, config)
    assert guide.network.config == config
    check_guide(guide, (16, 24), (37, 29), (5, 40))


def test_the_seed_decides(tmp_path: Path) -> None:
    guide = tiny_guide(tmp_path)
    image, hole = scene(24, 16)
    once = guide(image, hole, seed=5)
    assert torch.equal(once, guide(image, hole, seed=5))
    assert not torch.equal(once, guide(image, hole, seed=6))


def test_it_fills_a_photo_on_the_command_line(tmp_path: Path) -> None:
    tiny_guide(tmp_path)
    result = run_inpaint("diffir", [tmp_path / "last.ckpt"], tmp_path)
    assert result.exit_code == 0, result.output
    inside, outside = changed_pixels(tmp_path)
    assert inside > 200
    assert outside == 0


def test_a_state_dict_without_the_prefix_is_the_same(tmp_path: Path) -> None:
    guide = tiny_guide(tmp_path)
    torch.save(guide.network.state_dict(), tmp_path / "bare.pth")
    bare = d2s.load_guide("diffir", tmp_path / "bare.pth")
    image, hole = scene(16, 16)
    assert torch.equal(guide(image, hole), bare(image, hole))


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
    "heads that do not divide": (
        lambda: whole() | {"generator.G.latent.0.attn.temperature": torch.ones(5, 1, 1)},
        "heads",
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
