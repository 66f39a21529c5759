"""M2S from checkpoints laid out as its published ones: two flat state dicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, filled
from golden_weights import fill_state_dict
from guide_checks import changed_pixels, check_guide, run_inpaint, scene
from test_golden import replay
from torch import Tensor

import d2s_cli as d2s
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides import m2s
from d2s_cli.guides.m2s import M2SGuide, Stage, noised, walk
from d2s_cli.guides.network import reduce_known

COARSE = UNetConfig(32, (1, 2), 1, attention_levels=(0,), head_channels=64)
FINE = UNetConfig(32, (1, 1, 2), 1, attention_levels=(1,), head_channels=64)
#: fast enough for tests
SHORT = {"coarse_begin": 31, "fine_begin": 21, "repeats": 0, "stride": 20}
#: of the runs made with the published code
GOLDEN_STAGES = Stage(250, 20, 0, 125, 60), Stage(75, 10, 0, 40, 20)
Arrays = dict[str, Tensor]


def as_published(network: UNet) -> Arrays:
    return {k.replace("cond_embed", "time_embed"): v for k, v in network.state_dict().items()}


def tiny(path: Path, config: UNetConfig, channels: int = 6) -> Path:
    torch.save(as_published(filled(UNet(config, 3, channels))), path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [
        tiny(tmp_path / "celebahq256_500000.pt", FINE),
        tiny(tmp_path / "celebahq64_500000.pt", COARSE),
    ]


@pytest.fixture(scope="module")
def golden() -> Arrays:
    with np.load(GOLDEN / "m2s.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[M2SGuide]:
    """Both networks with fixed numbers; the files are large, and go when they have been read."""
    folder = tmp_path_factory.mktemp("m2s")
    for side in ("64", "256"):
        spec = json.loads((GOLDEN / f"m2s_{side}.spec.json").read_text())
        state = {k: torch.from_numpy(v) for k, v in fill_state_dict(spec).items()}
        torch.save(state, folder / f"celebahq{side}_500000.pt")
    yield d2s.load_guide("m2s", folder)
    for path in folder.iterdir():
        path.unlink()


def drawn(seed: int, *shape: int) -> Tensor:
    """Inputs of the golden runs that numpy makes again."""
    numbers = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(numbers.astype(np.float32))


class Recorder:
    """Stands in for a network; remembers what it was asked."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.steps: list[int] = []

    def __call__(self, x: Tensor, step: Tensor) -> Tensor:
        self.states.append(x)
        self.steps.append(int(step[0]))
        return torch.zeros(len(x), 6, *x.shape[2:])


def test_published_checkpoints_load_as_the_light_networks(published: M2SGuide) -> None:
    counts = [sum(p.numel() for p in n.parameters()) for n in (published.coarse, published.fine)]
    assert counts == [68_159_622, 93_563_910]
    assert (published.coarse_side, published.side) == (64, 256)
    assert (published.coarse_stage.calls, published.fine_stage.calls) == (754, 169)


def test_the_coarse_run_is_the_published_one(published: M2SGuide, golden: Arrays) -> None:
    # made with the published code at 32 x 32, every draw recorded
    noise = replay(drawn(8, 1, 3, 32, 32), *golden["noise"].split(1))
    image, known = golden["small"].float() / 127.5 - 1, golden["small_known"].float()
    published.coarse_stage = GOLDEN_STAGES[0]
    with torch.inference_mode():
        out = published.sample_coarse(image, known, noise)
    assert float((out - golden["coarse"]).abs().max() / golden["coarse"].std()) < 2e-4


def test_the_fine_network_is_the_published_one(published: M2SGuide, golden: Arrays) -> None:
    step = golden["network_step"].float()[None]
    with torch.inference_mode():
        out = published.fine(drawn(4, 1, 3, 96, 96), step)[..., ::3, ::3]
    reference = golden["network_out"]
    assert float((out - reference).abs().max() / reference.std()) < 3e-5


def test_the_fine_run_begins_and_goes_as_published(pair: list[Path], golden: Arrays) -> None:
    guide = d2s.load_guide("m2s", pair)
    guide.fine, guide.fine_stage = Recorder(), GOLDEN_STAGES[1]
    image, known = golden["image"].float() / 127.5 - 1, golden["known"].float()
    noise = replay(drawn(9, 1, 3, 64, 64), *torch.zeros(14, 1, 3, 64, 64))
    guide.sample_fine(golden["coarse"], image, known, noise)
    assert guide.fine.steps == golden["fine_steps"].tolist()
    start = guide.fine.states[0][..., ::2, ::2]
    assert torch.allclose(start, golden["fine_start"], atol=1e-5)


def test_the_coarse_picture_is_the_published_one(golden: Arrays) -> None:
    image, known = golden["image"].float() / 127.5 - 1, golden["known"].float()
    small, share = reduce_known(image, torch.ones_like(known), (32, 32))
    assert float((small - (golden["small"].float() / 127.5 - 1)).abs().max()) < 1.01 / 127.5
    _, share = reduce_known(image, known, (32, 32))
    assert torch.equal(share >= 0.5, golden["small_known"])


def test_hidden_pixels_do_not_reach_the_coarse_picture() -> None:
    image, known = torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 1, 4, 4)
    known[..., 0] = 0
    small, share = reduce_known(image * known, known, (2, 2))
    assert torch.equal(small, torch.full((1, 3, 2, 2), 0.5))
    assert share[0, 0].tolist() == [[0.5, 1.0], [0.5, 1.0]]


def test_paths_are_the_published_ones() -> None:
    assert GOLDEN_STAGES[0].path() == [249, 189, 129, 124, 144, 84, 24, -1]
    assert GOLDEN_STAGES[1].path() == [74, 54, 34, 44, 24, 4, -1]
    assert Stage(75, 10, 1, 40, 20).path() == [74, 54, 34, 44, 34, 44, 24, 4, -1]
    assert m2s.TIMES[:3] + m2s.TIMES[-3:] == [0, 4, 7, 992, 995, 999]


def test_a_walk_noises_known_pixels_before_each_call_but_the_first() -> None:
    stage = Stage(begin=3, jump=1, repeats=0, interval=1, stride=1)
    assert stage.path() == [2, 1, 2, 1, 0, 1, 0, -1]
    image, known = torch.full((1, 3, 2, 2), 0.25), torch.ones(1, 1, 2, 2)
    ones = torch.ones(1, 3, 2, 2)
    states: list[Tensor] = []

    def predict_noise(x: Tensor, step: int) -> Tensor:
        states.append(x)
        return torch.zeros_like(x)

    start = torch.full((1, 3, 2, 2), 7.0)
    walk(predict_noise, start, image, known, lambda shape: ones, stage)
    assert torch.equal(states[0], start)
    expected = [noised(image, position, ones) for position in (2, 1, 1, 0)]
    assert all(torch.allclose(a, b) for a, b in zip(states[1:], expected, strict=True))


@pytest.mark.parametrize(
    ("fine", "channels"),
    [(FINE, 6), (UNetConfig(32, (2, 1), 2, attention_levels=(1,), head_channels=64), 3)],
)
def test_networks_of_other_shapes(fine: UNetConfig, channels: int, tmp_path: Path) -> None:
    tiny(tmp_path / "a64.pt", COARSE, channels)
    tiny(tmp_path / "a256.pt", fine, channels)
    guide = d2s.load_guide("m2s", tmp_path, **SHORT)
    assert (guide.coarse.config, guide.fine.config) == (COARSE, fine)
    assert (guide.coarse_side, guide.side) == (16, 32)
    check_guide(guide, (32, 32), (45, 70))


def in_folder(pair: list[Path]) -> object:
    return pair[0].parent


def backwards(pair: list[Path]) -> object:
    return pair[::-1]


def only_one(pair: list[Path]) -> object:
    (pair[0].parent / "another.pt").write_bytes(b"")
    return pair[1]


@pytest.mark.parametrize("given", [in_folder, backwards, only_one])
def test_the_pair_is_found(given: Callable[[list[Path]], object], pair: list[Path]) -> None:
    guide = d2s.load_guide("m2s", given(pair))
    assert (guide.coarse.config, guide.fine.config) == (COARSE, FINE)


def test_special_masks_need_the_large_network_alone(pair: list[Path]) -> None:
    pair[1].unlink()
    guide = d2s.load_guide("m2s", pair[0], special_mask=True, **SHORT)
    assert (guide.coarse.config, guide.coarse_side) == (FINE, 32)
    image, _ = scene(32, 32)
    lines = torch.zeros(2, 1, 32, 32)
    lines[..., ::2, :] = 1
    out = guide(image, lines)
    assert torch.equal(out[..., 1::2, :], image[..., 1::2, :])
    assert bool((out != image)[..., ::2, :].any())


def test_half_a_pair_or_a_crowd_is_refused(pair: list[Path]) -> None:
    third = pair[0].with_name("third.pt")
    tiny(third, FINE)
    with pytest.raises(WeightsError, match="two checkpoints, not 3"):
        d2s.load_guide("m2s", [*pair, third])
    # in a folder, the two with the published names are meant
    assert set(d2s.load_guide("m2s", pair[0].parent).files) == set(pair)
    pair[1].unlink()
    with pytest.raises(WeightsError, match=r"celebahq64_500000\.pt") as caught:
        d2s.load_guide("m2s", pair[0])
    assert caught.value.exit_code == 5


def test_seeds_differ_and_repeat(pair: list[Path]) -> None:
    guide = d2s.load_guide("m2s", pair, **SHORT)
    image, hole = scene(32, 32)
    assert torch.equal(guide(image, hole, seed=1), guide(image, hole, seed=1))
    assert not torch.equal(guide(image, hole, seed=1), guide(image, hole, seed=2))


@pytest.mark.parametrize(
    "options", [{"repeats": -1}, {"stride": 0}, {"coarse_begin": 270}, {"fine_begin": 0}]
)
def test_settings_that_make_no_sense(options: dict[str, int], pair: list[Path]) -> None:
    with pytest.raises(UsageError):
        d2s.load_guide("m2s", pair, **options)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"time_embed.0.weight": None}, r"'time_embed\.0\.weight' is missing"),
        ({"out.2.bias": None}, r"1 tensors differ\nmissing: out\.2\.bias"),
        ({"label_emb.weight": torch.zeros(1000, 128)}, "wants a class for each picture"),
        ({"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, "wants 6 channels"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(
    change: dict[str, Tensor | None], reason: str, pair: list[Path]
) -> None:
    state = as_published(filled(UNet(FINE, 3, 6))) | change
    torch.save({k: v for k, v in state.items() if v is not None}, pair[0])
    with pytest.raises(WeightsError, match=reason):
        d2s.load_guide("m2s", pair)


def test_the_command_line(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m2s.load, "__defaults__", (*SHORT.values(), False))
    result = run_inpaint("m2s", pair, tmp_path)
    assert result.exit_code == 0, result.output
    inside, outside = changed_pixels(tmp_path)
    assert inside > 200
    assert outside == 0
