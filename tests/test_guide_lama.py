"""LaMa: the published network's numbers, from files laid out as the published ones."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from foreign_classes import foreign_classes
from golden_weights import fill_state_dict
from guide_checks import (
    PART,
    changed_pixels,
    check_guide,
    golden,
    golden_picture,
    meta_tensors,
    run_inpaint,
)
from safetensors.torch import save_file
from torch import Tensor, nn

import d2s_cli as d2s
from d2s_cli.errors import WeightsError
from d2s_cli.guides.lama import Lama, LamaConfig, LamaNetwork, config_from_tensors

LIMIT = 1e-4
TINY = LamaConfig(widths=(8, 16, 32), spectral=16, blocks=3)
State = dict[str, Tensor]


def filled(spec: Mapping[str, list[object]], halvings: int = 3) -> State:
    """Fixed numbers, with norms scaled so that the last sigmoid is not saturated."""

    def scaled(key: str, value: np.ndarray) -> Tensor:
        if re.search(r"conv2\.bn_[lg]\.(weight|bias)$", key):
            value = value * np.float32(0.25)
        elif re.search(rf"\.model\.[1-{halvings + 1}]\.bn_[lg]\.weight$", key):
            value = value * np.float32(2)
        return torch.from_numpy(np.asarray(value))

    return {k: scaled(k, v) for k, v in fill_state_dict(dict(spec)).items()}


def big_lama() -> State:
    return filled(json.loads((GOLDEN / "lama.spec.json").read_text()))


def narrow(config: LamaConfig) -> State:
    """Weights of fixed numbers for a network of any size, named as the authors name them."""
    network = LamaNetwork(config).state_dict()
    spec = {
        f"generator.{k}": [tuple(v.shape), str(v.dtype).removeprefix("torch.")]
        for k, v in network.items()
    }
    return filled(spec, len(config.widths) - 1)


def write_lightning(path: Path, state: State) -> Path:
    """As the authors' training saves it: other networks, and classes of absent packages."""
    origins = ("pytorch_lightning.callbacks.ModelCheckpoint", "omegaconf.DictConfig")
    others = {
        "discriminator.model0.0.weight": torch.ones(4, 3, 4, 4),
        "loss_resnet_pl.impl.conv1.weight": torch.ones(4, 3, 7, 7),
        "val_evaluator.scores.ssim.window": torch.ones(1, 1, 11, 11),
    }
    with foreign_classes(*origins) as (callback, settings):
        hyper_parameters = settings()
        hyper_parameters.content = {"generator": {"ngf": 1}}
        whole = {
            "epoch": 39,
            "pytorch-lightning_version": "1.2.9",
            "state_dict": state | others,
            "callbacks": {callback: {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
            "hyper_parameters": hyper_parameters,
        }
        torch.save(whole, path)
    return path


class Traced(nn.Module):
    """Stands in for the wrapper that was traced: it owns the tensors by their names."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for key, value in state.items():
            *parents, name = key.split(".")
            owner: nn.Module = self
            for parent in parents:
                if parent not in dict(owner.named_children()):
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            owner.register_buffer(name, value)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image * mask


def write_torchscript(path: Path, state: State) -> Path:
    image = torch.ones(1, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather export
        torch.jit.trace(Traced(state), (image, image)).save(str(path))
    return path


def predict(guide: Lama, picture: Tensor, hole: Tensor) -> Tensor:
    with torch.inference_mode():
        return guide.network(torch.cat([picture * (1 - hole), hole], dim=1))


def test_big_lama_gives_the_published_numbers(tmp_path: Path) -> None:
    guide = d2s.load_guide("lama", weights=write_lightning(tmp_path / "best.ckpt", big_lama()))
    assert guide.config == LamaConfig((64, 128, 256, 512), 384, blocks=18)
    picture, hole = golden_picture()
    out = (guide(2 * picture - 1, hole) + 1) / 2
    at = (..., slice(None, None, 3), slice(None, None, 3))
    expected = torch.where(hole[at] > 0, golden("lama.npz", "blocks_18"), picture[at])
    assert float((out[at] - expected).abs().max()) < LIMIT


def test_the_celeba_network_is_read_off_its_tensors() -> None:
    named = meta_tensors("lama_celeba.spec.json")
    tensors = {k.removeprefix("generator."): v for k, v in named.items()}
    config = config_from_tensors(tensors)
    assert config == LamaConfig((64, 128, 256, 512), 384, blocks=9)
    with torch.device("meta"):
        ours = LamaNetwork(config).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("name", "config"),
    [("narrow_9", LamaConfig((8, 16, 32, 64), 48, 9)), ("narrow_3", TINY)],
)
def test_other_sizes_give_the_published_codes_numbers(
    tmp_path: Path, name: str, config: LamaConfig
) -> None:
    guide = d2s.load_guide("lama", weights=write_lightning(tmp_path / "x.ckpt", narrow(config)))
    assert guide.config == config
    out = predict(guide, *(t[PART] for t in golden_picture()))
    assert float((out[..., ::2, ::2] - golden("lama.npz", name)).abs().max()) < LIMIT


@pytest.mark.parametrize("config", [replace(TINY, spectral=0), replace(TINY, spectral=32)])
def test_either_branch_may_be_absent(tmp_path: Path, config: LamaConfig) -> None:
    guide = d2s.load_guide("lama", weights=write_lightning(tmp_path / "x.ckpt", narrow(config)))
    assert guide.config == config
    check_guide(guide, (16, 24))


@pytest.mark.parametrize("prefix", ["model.generator.", "model.", ""])
def test_torchscript_archives_are_read_for_their_tensors(tmp_path: Path, prefix: str) -> None:
    state = {k.removeprefix("generator."): v for k, v in narrow(TINY).items()}
    path = write_torchscript(tmp_path / "big.pt", {prefix + k: v for k, v in state.items()})
    guide = d2s.load_guide("lama", weights=path)
    assert guide.config == TINY
    ours = guide.network.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in state.items())


def test_a_running_average_beside_the_network_is_not_taken_for_it(tmp_path: Path) -> None:
    state = narrow(TINY)
    copies = {k.replace("generator.", "generator_average.", 1): v * 2 for k, v in state.items()}
    guide = d2s.load_guide("lama", weights=write_lightning(tmp_path / "x.ckpt", copies | state))
    weight = guide.network.state_dict()["model.1.bn_l.weight"]
    assert torch.equal(weight, state["generator.model.1.bn_l.weight"])


def test_counts_of_training_batches_may_be_missing(tmp_path: Path) -> None:
    state = {k: v for k, v in narrow(TINY).items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "lama.safetensors")
    check_guide(d2s.load_guide("lama", weights=tmp_path / "lama.safetensors"), (16, 16))


def test_any_size(tmp_path: Path) -> None:
    guide = d2s.load_guide("lama", weights=write_lightning(tmp_path / "x.ckpt", narrow(TINY)))
    check_guide(guide, (5, 3), (16, 24), (37, 22))


def test_padding_mirrors_at_the_bottom_and_right(tmp_path: Path) -> None:
    guide = d2s.load_guide("lama", weights=write_lightning(tmp_path / "x.ckpt", narrow(TINY)))
    picture, hole = (t[..., 20:61, 30:67] for t in golden_picture())
    out = (guide(2 * picture - 1, hole) + 1) / 2
    mirrored = [
        torch.from_numpy(np.pad(t, ((0, 0), (0, 0), (0, 3), (0, 3)), mode="symmetric"))
        for t in (picture, hole)
    ]
    expected = predict(guide, *mirrored)[..., :41, :37]
    inside = (hole > 0).expand_as(picture)
    assert float((out - expected)[inside].abs().max()) < 1e-5


def test_nonsense_in_the_weights_is_an_error_with_the_guides_name(tmp_path: Path) -> None:
    state = narrow(TINY)
    state["generator.model.1.bn_l.weight"][0] = float("nan")
    guide = d2s.load_guide("lama", weights=write_lightning(tmp_path / "x.ckpt", state))
    with pytest.raises(WeightsError, match="guide lama gave no usable picture"):
        guide(torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16))


def test_another_network_is_refused_with_the_names_it_has(tmp_path: Path) -> None:
    torch.save({"generator.model.1.weight": torch.ones(64, 4, 7, 7)}, tmp_path / "regular.ckpt")
    with pytest.raises(WeightsError, match=r"no Fourier network[\s\S]*generator\.model\.1\.w"):
        d2s.load_guide("lama", weights=tmp_path / "regular.ckpt")


def test_missing_and_further_layers_are_listed(tmp_path: Path) -> None:
    state = narrow(TINY)
    del state["generator.model.5.conv2.ffc.convg2g.fu.conv_layer.weight"]
    state["generator.model.5.conv1.ffc.convg2g.lfu.bn.bias"] = torch.ones(8)
    path = write_lightning(tmp_path / "x.ckpt", state)
    with pytest.raises(WeightsError, match="2 tensors differ") as error:
        d2s.load_guide("lama", weights=path)
    assert "missing: model.5.conv2.ffc.convg2g.fu.conv_layer.weight" in error.value.hint
    assert "unexpected: model.5.conv1.ffc.convg2g.lfu.bn.bias" in error.value.hint


def test_from_the_command_line(tmp_path: Path) -> None:
    run = run_inpaint("lama", [write_lightning(tmp_path / "best.ckpt", narrow(TINY))], tmp_path)
    assert run.exit_code == 0, run.stderr
    inside, outside = changed_pixels(tmp_path)
    assert inside > 0.9 * 12 * 21
    assert outside == 0


def test_a_wrong_file_ends_the_command_with_its_names(tmp_path: Path) -> None:
    torch.save({"decoder.weight": torch.ones(3)}, tmp_path / "other.pth")
    run = run_inpaint("lama", [tmp_path / "other.pth"], tmp_path)
    assert isinstance(run.exception, WeightsError)
    assert run.exception.exit_code == 5
    assert "decoder.weight" in run.exception.hint
