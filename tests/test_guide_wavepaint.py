"""WavePaint: the published network's numbers, from files laid out as the published ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
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
from torch import Tensor

import d2s_cli as d2s
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.wavepaint import (
    WavePaint,
    WavePaintConfig,
    WavePaintNetwork,
    config_from_tensors,
    haar,
)

LIMIT = 1e-4
TINY = WavePaintConfig(given=4, modules=2, blocks=1, width=16, hidden=32, narrow=8)
PLACES = WavePaintConfig(given=3, modules=1, blocks=2, width=8, hidden=24, narrow=16)
State = dict[str, Tensor]


def filled(spec: dict[str, list[object]]) -> State:
    """Fixed numbers, scaled so that a chain of modules stays near the picture's range."""
    state = {k: torch.from_numpy(np.asarray(v)) for k, v in fill_state_dict(spec).items()}
    for key in state:
        if ".feedforward.5." in key and key.endswith(("weight", "bias")):
            state[key] = state[key] * 0.5
        elif ".decoder2.0." in key:
            state[key] = state[key] * 0.25
    return state


def small(config: WavePaintConfig) -> State:
    network = WavePaintNetwork(config).state_dict()
    return filled(
        {k: [tuple(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in network.items()}
    )


def write(path: Path, state: State) -> Path:
    torch.save(state, path)
    return path


def load(folder: Path, config: WavePaintConfig, **options: object) -> WavePaint:
    path = write(folder / "wavepaint.pth", small(config))
    guide = d2s.load_guide("wavepaint", weights=path, **options)
    assert isinstance(guide, WavePaint)
    return guide


def predict(guide: WavePaint, picture: Tensor, hole: Tensor) -> Tensor:
    with torch.inference_mode():
        return guide.network(picture * (1 - hole), hole)


def test_the_celeba_network_gives_the_published_numbers(tmp_path: Path) -> None:
    spec = json.loads((GOLDEN / "wavepaint.spec.json").read_text())
    guide = d2s.load_guide("wavepaint", weights=write(tmp_path / "celebhq.pth", filled(spec)))
    assert guide.config == WavePaintConfig(given=4, modules=8, blocks=4, hidden=256)
    picture, hole = golden_picture()
    at = (..., slice(None, None, 3), slice(None, None, 3))
    expected = golden("wavepaint.npz", "modules_8")
    assert float((predict(guide, picture, hole)[at] - expected).abs().max()) < LIMIT
    out = (guide(2 * picture - 1, hole) + 1) / 2
    assert float((out[at] - expected.clamp(0, 1)).abs().max()) < LIMIT


@pytest.mark.parametrize(("given", "hidden"), [(4, 256), (3, 512)])
def test_both_published_shapes_are_told_apart_by_their_tensors(given: int, hidden: int) -> None:
    name = "wavepaint" if given == 4 else "wavepaint_3ch"
    tensors = meta_tensors(f"{name}.spec.json")
    config = config_from_tensors(tensors)
    assert config == WavePaintConfig(given, hidden=hidden)
    with torch.device("meta"):
        ours = WavePaintNetwork(config).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("narrow_4_channels", TINY),
        ("narrow_3_channels", PLACES),
        ("narrow_2_levels", replace(TINY, blocks=2, levels=2, narrow=16)),
        ("narrow_3_levels", replace(TINY, modules=1, levels=3, narrow=16)),
    ],
)
def test_other_sizes_give_the_published_codes_numbers(
    tmp_path: Path, name: str, config: WavePaintConfig
) -> None:
    guide = load(tmp_path, config)
    assert guide.config == config
    out = predict(guide, *(t[PART] for t in golden_picture()))
    assert float((out[..., ::2, ::2] - golden("wavepaint.npz", name)).abs().max()) < LIMIT


def test_haar_keeps_every_number() -> None:
    x = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    low, high = haar(x)
    rows, columns, both = (high[:, i::3] for i in range(3))
    assert torch.allclose(x[..., ::2, ::2], (low + rows + columns + both) / 2, atol=1e-6)
    assert torch.allclose(x[..., 1::2, ::2], (low - rows + columns - both) / 2, atol=1e-6)
    assert torch.allclose(x.square().sum(), low.square().sum() + high.square().sum())


def test_the_mask_channel_can_be_the_known_part(tmp_path: Path) -> None:
    picture, hole = (t[PART] for t in golden_picture())
    usual, other = load(tmp_path, TINY), load(tmp_path, TINY, mask_channel="known")
    assert not torch.equal(predict(usual, picture, hole), predict(other, picture, hole))
    assert torch.equal(predict(usual, picture, 0 * hole), picture)
    blind = load(tmp_path, PLACES, mask_channel="known")
    assert torch.equal(
        predict(load(tmp_path, PLACES), picture, hole), predict(blind, picture, hole)
    )
    with pytest.raises(UsageError, match="hole or known"):
        load(tmp_path, TINY, mask_channel="white")


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_any_size(tmp_path: Path, levels: int) -> None:
    check_guide(load(tmp_path, replace(TINY, levels=levels)), (5, 3), (16, 24), (37, 22))


def test_a_prefix_and_missing_counts_do_not_matter(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in small(TINY).items() if "num_batches" not in k}
    guide = d2s.load_guide("wavepaint", weights=write(tmp_path / "x.pth", state))
    assert guide.config == TINY


def test_broken_weights_are_an_error_that_says_how_to_check_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = small(PLACES) | {"wavemodules.0.decoder2.0.bias": torch.full((3,), 1e3)}
    store = tmp_path / "store" / "wavepaint"
    store.mkdir(parents=True)
    paths = [write(folder / "w.pth", state) for folder in (tmp_path, store)]
    (store / "entry.json").write_text("{}")
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(store.parent))
    for path, said in zip(paths, (f"info {paths[0]}", "verify wavepaint"), strict=True):
        guide = d2s.load_guide("wavepaint", weights=path)
        with pytest.raises(WeightsError, match="guide wavepaint gave numbers far out") as raised:
            guide(torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16))
        assert f"d2s weights {said}" in raised.value.hint


def test_another_network_is_refused_with_the_names_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", {"encoder.weight": torch.ones(3, 3)})
    with pytest.raises(WeightsError, match=r"no WavePaint network[\s\S]*encoder\.weight") as error:
        d2s.load_guide("wavepaint", weights=path)
    assert error.value.exit_code == 5


@pytest.mark.parametrize("config", [replace(TINY, given=5), replace(TINY, width=18)])
def test_sizes_that_cannot_work_are_refused(tmp_path: Path, config: WavePaintConfig) -> None:
    with pytest.raises(WeightsError, match="no WavePaint network: its modules take"):
        load(tmp_path, config)


def test_missing_and_further_layers_are_listed(tmp_path: Path) -> None:
    state = small(TINY)
    del state["wavemodules.1.depthconv.0.bias"]
    state["wavemodules.1.extra"] = torch.ones(1)
    with pytest.raises(WeightsError, match="2 tensors differ") as error:
        d2s.load_guide("wavepaint", weights=write(tmp_path / "x.pth", state))
    assert "missing: wavemodules.1.depthconv.0.bias [16]" in error.value.hint
    assert "unexpected: wavemodules.1.extra [1]" in error.value.hint


def test_from_the_command_line(tmp_path: Path) -> None:
    run = run_inpaint("wavepaint", [write(tmp_path / "x.pth", small(TINY))], tmp_path)
    assert run.exit_code == 0, run.stderr
    inside, outside = changed_pixels(tmp_path)
    assert inside > 0.9 * 12 * 21
    assert outside == 0
