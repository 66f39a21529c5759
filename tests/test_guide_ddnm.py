"""DDNM from checkpoints laid out as its published one: a flat state dict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from golden_weights import fill_state_dict
from guide_checks import changed_pixels, check_guide, run_inpaint, scene
from test_golden import replay
from torch import Tensor

import d2s_cli as d2s
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides import ddnm
from d2s_cli.guides.ddnm import TABLE, DDNMGuide, DDNMSettings, step_numbers
from d2s_cli.guides.ddnm_network import DDPMConfig, DDPMUNet, config_from_tensors

TINY = DDPMConfig(channels=32, widths=(32, 64), res_blocks=1, attention_levels=(1,))
OTHERS = [
    TINY,
    DDPMConfig(32, (64,), 2, (0,), out_channels=6),
    DDPMConfig(64, (32, 64, 32), 1, (1,), convolved=False),
]
Arrays = dict[str, Tensor]


def tiny_state(config: DDPMConfig) -> Arrays:
    spec = {k: [tuple(v.shape), "float32"] for k, v in DDPMUNet(config).state_dict().items()}
    return {k: torch.from_numpy(v) for k, v in fill_state_dict(spec).items()}


def checkpoint(folder: Path, config: DDPMConfig = TINY) -> Path:
    torch.save(tiny_state(config), folder / "celeba_hq.ckpt")
    return folder / "celeba_hq.ckpt"


@pytest.fixture(scope="module")
def golden() -> Arrays:
    with np.load(GOLDEN / "ddnm.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DDNMGuide]:
    """The whole network with fixed numbers; its file is large, and goes when it has been read."""
    spec = json.loads((GOLDEN / "ddnm.spec.json").read_text())
    path = tmp_path_factory.mktemp("ddnm") / "celeba_hq.ckpt"
    torch.save({k: torch.from_numpy(v) for k, v in fill_state_dict(spec).items()}, path)
    yield d2s.load_guide("ddnm", path, steps=5)
    path.unlink()


def test_a_published_checkpoint_loads_as_the_default_network(published: DDNMGuide) -> None:
    assert published.network.config == DDPMConfig()
    assert published.side == 256
    assert sum(p.numel() for p in published.network.parameters()) == 113_673_219


@pytest.mark.parametrize("form", ["out", "out_simplified"])
def test_both_published_forms_are_reproduced(
    published: DDNMGuide, golden: Arrays, form: str
) -> None:
    # made with the published code at 64 x 64; both runs drew the same noise
    start = np.random.RandomState(7).standard_normal((1, 3, 64, 64)).astype(np.float32)
    noise = replay(torch.from_numpy(start), *golden["noise"].split(1))
    image, hole = golden["image"].float() / 127.5 - 1, (~golden["known"]).float()
    published.settings = DDNMSettings(steps=5, simplified=form == "out_simplified")
    with torch.inference_mode():
        out = published.sample(image, hole, noise)
    assert float((out - golden[form]).abs().max() / golden[form].std()) < 1e-4
    known = golden["known"].expand_as(out)
    assert torch.equal(out[known], image[known])


def test_steps_are_the_published_ones(golden: Arrays) -> None:
    assert step_numbers(DDNMSettings(steps=5))[:-1] == golden["steps"].tolist()
    path = step_numbers(DDNMSettings())
    assert (path[:2], path[-2:], len(path)) == ([990, 980], [0, -1], 101)


def test_time_travel_goes_back_as_published() -> None:
    positions = [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0]
    path = step_numbers(DDNMSettings(steps=6, travel_length=2, travel_repeat=2))
    assert path == [position * 166 for position in positions] + [-1]
    thrice = step_numbers(DDNMSettings(steps=4, travel_length=1, travel_repeat=3))
    assert thrice == [n * 250 for n in (3, 2, 3, 2, 3, 2, 1, 2, 1, 2, 1, 0, 1, 0, 1, 0)] + [-1]


def test_travelling_noises_the_last_estimate_before_the_known_pixels_were_put_in() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
    hole = torch.zeros(1, 1, 4, 4)
    hole[..., :2] = 1
    settings = DDNMSettings(steps=2, travel_length=1, travel_repeat=2, eta=0.0)
    path = step_numbers(settings)
    draws = [torch.randn(1, 3, 4, 4, generator=generator) for _ in path]
    states: list[Tensor] = []

    def predict_noise(x: Tensor, step: int) -> Tensor:
        states.append(x)
        return 0.1 * x

    ddnm.ddnm(predict_noise, image, hole, replay(*draws), settings)
    up = next(i for i, (now, after) in enumerate(pairwise(path)) if after > now)
    here, there = TABLE.at(path[up - 1] + 1), TABLE.at(path[up + 1] + 1)
    x_0 = states[up - 1] * (1 - 0.1 * (1 - here) ** 0.5) / here**0.5
    expected = there**0.5 * x_0 + (1 - there) ** 0.5 * draws[up + 1]
    assert torch.allclose(states[up], expected, atol=1e-5)


@pytest.mark.parametrize("config", OTHERS)
def test_networks_of_other_shapes(config: DDPMConfig, tmp_path: Path) -> None:
    assert config_from_tensors(tiny_state(config)) == config
    guide = d2s.load_guide("ddnm", checkpoint(tmp_path, config), steps=3)
    assert guide.side == config.side
    check_guide(guide, (config.side, config.side), (45, 70))


def test_keys_may_come_from_several_gpus(tmp_path: Path) -> None:
    torch.save({f"module.{k}": v for k, v in tiny_state(TINY).items()}, tmp_path / "a.ckpt")
    assert d2s.load_guide("ddnm", tmp_path / "a.ckpt").network.config == TINY


def test_attention_elsewhere_leaves_the_usual_size() -> None:
    assert replace(TINY, attention_levels=()).side == 256
    assert replace(TINY, attention_levels=(2, 3)).side == 256


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    guide = d2s.load_guide("ddnm", checkpoint(tmp_path), steps=2)
    image, hole = scene(32, 32)
    assert torch.equal(guide(image, hole, seed=1), guide(image, hole, seed=1))
    assert not torch.equal(guide(image, hole, seed=1), guide(image, hole, seed=2))


@pytest.mark.parametrize(
    "options",
    [
        *({"steps": 0}, {"steps": 1001}, {"steps": 2.5}, {"steps": "many"}, {"steps": True}),
        *({"eta": 2}, {"travel_length": 0}, {"simplified": "yes"}),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        d2s.load_guide("ddnm", checkpoint(tmp_path), **options)


@pytest.mark.parametrize(
    ("drop", "reason"),
    [
        ("conv_in.weight", "no DDPM network: the tensor 'conv_in.weight' is missing"),
        (
            "down.1.block.0.conv1.weight",
            r"the tensor 'down\.1\.block\.0\.conv1\.weight' is missing",
        ),
        ("mid.attn_1.q.weight", r"does not fit: 1 tensors differ\nmissing: mid.attn_1.q.weight"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(drop: str, reason: str, tmp_path: Path) -> None:
    state = tiny_state(TINY)
    del state[drop]
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=reason):
        d2s.load_guide("ddnm", tmp_path / "a.ckpt")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddnm.load, "__defaults__", (3, *ddnm.load.__defaults__[1:]))
    result = run_inpaint("ddnm", [checkpoint(tmp_path)], tmp_path)
    assert result.exit_code == 0, result.output
    inside, outside = changed_pixels(tmp_path)
    assert inside > 200
    assert outside == 0


def test_the_command_line_refuses_a_wrong_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "celeba_hq.ckpt")
    result = run_inpaint("ddnm", [tmp_path / "celeba_hq.ckpt"], tmp_path)
    assert isinstance(result.exception, WeightsError)
    assert result.exception.exit_code == 5
    assert "conv_in" in result.exception.message
