"""The guide with a network: smooth fill, losses, training, and the guide that comes of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import first_of_two, pickled
from torch import Tensor, nn

import d2s_cli as d2s
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides import on_photo
from d2s_cli.guides.fill_network import FillConfig, FillNetwork
from d2s_cli.guides.smooth_fill import push_pull
from d2s_cli.images.convert import to_unit_range
from d2s_cli.runtime import Compute
from d2s_cli.training import guide as guide_training
from d2s_cli.training import guide_validation
from d2s_cli.training.adversary import (
    PatchAdversary,
    adversary_loss,
    deceit_loss,
    made_patches,
)
from d2s_cli.training.candidates import load_candidates
from d2s_cli.training.data import HOLE_SHARE, Batch, make_batch
from d2s_cli.training.guide import EXPORT, GuideTrainer, beginning, train_guide
from d2s_cli.training.guide_data import GuideConfig
from d2s_cli.training.perceptual import Distances, PerceptualDistance
from d2s_cli.training.run import Pace
from d2s_cli.training.validation import BEST_PSNR
from d2s_cli.weights.reading import read_weights, write_safetensors

CPU = Compute(torch.device("cpu"))
TINY = GuideConfig(
    network=FillConfig((8, 8, 16), 1),
    images=48,
    batch=4,
    sizes=(32, 64),
    size_shares=(0.8, 0.2),
    candidates=6,
    adversary_from=16,
)


#: the other of two processes, as the pickle says
SCRIPT = """
import pickle, sys
sys.modules["torch.utils.tensorboard"] = None  # takes long to import
import torch
from d2s_cli.images.convert import to_unit_range
from d2s_cli.runtime import Compute
from d2s_cli.training import guide
torch.set_num_threads(1)
class Brightness(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
    def forward(self, image, truth, hole):
        difference = (image.mean((2, 3)) - truth.mean((2, 3))).square().mean(1)
        return difference, difference
guide.PerceptualDistance = Brightness
folder, output, config = pickle.load(open(sys.argv[1], "rb"))
guide.train_guide([folder], output, config, Compute(torch.device("cpu")))
"""


class Brightness(nn.Module):
    """Stands in for the perceptual network, which is a package of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()

    def forward(self, image: Tensor, truth: Tensor, hole: Tensor) -> Distances:
        difference = (image.mean((2, 3)) - truth.mean((2, 3))).square().mean(1)
        return Distances(difference, difference)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide_training, "PerceptualDistance", Brightness)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(6):
        ramp = np.linspace(20 * i, 120 + 20 * i, 96)[:, None, None]
        picture = np.clip(ramp + rng.normal(0, 8, (96, 80, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(path / f"{i}.png")
    return path


def hole_of(height: int, width: int) -> Tensor:
    hole = torch.zeros(1, 1, height, width)
    hole[..., height // 4 : height // 2, width // 3 : width // 2 + 1] = 1
    return hole


# smooth fill


@given(st.integers(1, 40), st.integers(1, 40), st.floats(-1, 1))
def test_a_smooth_fill_of_one_colour_is_that_colour(height: int, width: int, level: float) -> None:
    hole = torch.zeros(1, 1, height, width)
    hole[..., : max(1, height // 2), 1:] = 1
    image = torch.full((1, 3, height, width), level)
    assert torch.allclose(push_pull(torch.where(hole > 0, 9.0, image), hole), image, atol=1e-5)


def test_a_smooth_fill_keeps_known_pixels_and_stays_between_them() -> None:
    image = torch.rand(2, 3, 37, 50) * 2 - 1
    hole = hole_of(37, 50).repeat(2, 1, 1, 1)
    filled = push_pull(image, hole)
    assert torch.equal(filled * (1 - hole), image * (1 - hole))
    assert float(filled.max()) <= float(image.max())
    assert float(filled.min()) >= float(image.min())


def test_a_smooth_fill_without_known_pixels_is_grey() -> None:
    assert torch.equal(
        push_pull(torch.ones(1, 3, 8, 8), torch.ones(1, 1, 8, 8)), torch.zeros(1, 3, 8, 8)
    )


# network and losses


def test_the_untrained_network_gives_mostly_the_candidate_and_never_touches_known_pixels() -> None:
    network = FillNetwork(FillConfig((8, 8, 16), 1))
    image, hole = torch.rand(1, 3, 40, 48) * 2 - 1, hole_of(40, 48)
    smooth = push_pull(image, hole)
    candidate = torch.where(hole > 0, torch.rand_like(image), image)
    fill = network(candidate, smooth, hole)
    assert torch.equal(fill * (1 - hole), candidate * (1 - hole))
    trust = torch.sigmoid(torch.tensor(3.0))
    assert torch.allclose(
        fill, torch.where(hole > 0, trust * candidate + (1 - trust) * smooth, image)
    )


def test_only_patches_that_lie_in_the_hole_count_as_made() -> None:
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 32:, :] = 1
    weight = made_patches(hole, (8, 8))
    assert torch.equal(weight[0, 0, :, 0], torch.tensor([0.0] * 4 + [1.0] * 4))
    scores = torch.where(weight > 0, -2.0, 5.0)
    assert adversary_loss(torch.full_like(scores, 1.5), scores, weight) == (0, 0)
    assert float(deceit_loss(scores, weight)) == 2 * float(weight.sum())


def test_the_adversary_learns_to_tell_noise_from_ramps() -> None:
    torch.manual_seed(0)
    adversary = PatchAdversary(8)
    optimizer = torch.optim.Adam(adversary.parameters(), 2e-3)
    hole = torch.ones(4, 1, 32, 32)
    ramp = torch.linspace(-1, 1, 32).expand(4, 3, 32, 32)
    losses = []
    for _ in range(30):
        real, made = adversary(ramp, hole), adversary(torch.randn(4, 3, 32, 32), hole)
        loss = sum(adversary_loss(real, made, made_patches(hole, (4, 4)))) / real.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


# training


def stop_after(steps: int) -> Callable[[], bool]:
    asked = count()
    return lambda: next(asked) >= steps


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    folder: Path, tmp_path: Path
) -> None:
    straight = train_guide([folder], tmp_path / "straight", TINY, CPU)
    broken = train_guide([folder], tmp_path / "broken", TINY, CPU, Pace(stop=stop_after(7)))
    assert broken.step_number == 7
    assert straight.images >= 48
    train_guide([folder], tmp_path / "broken", TINY, CPU)
    exports = [(tmp_path / name / EXPORT).read_bytes() for name in ("straight", "broken")]
    assert exports[0] == exports[1]
    assert list((tmp_path / "straight" / "samples").glob("*.png"))
    assert not list(tmp_path.rglob("*.part"))


def test_two_processes_make_the_guide_of_one(folder: Path, tmp_path: Path) -> None:
    """Uneven shares, and steps with one example, of which the second process has none."""
    config = dataclasses.replace(TINY, images=40, batch=5, warmup=0, learning_rate=1e-3)
    steps = 9
    assert {config.size_of(step)[1] for step in range(steps)} == {1, 5}
    job = pickled(tmp_path / "job", folder, tmp_path / "shared", config)
    with first_of_two(SCRIPT, [job]):
        shared = train_guide([folder], tmp_path / "shared", config, CPU)
    alone = train_guide([folder], tmp_path / "alone", config, CPU)
    assert shared.images == alone.images > config.adversary_from
    for name in ("network", "adversary"):
        began = getattr(GuideTrainer(config, tmp_path, CPU), name).state_dict()
        weights = [getattr(trainer, name).state_dict() for trainer in (shared, alone)]
        moved = difference(weights[1], began)
        assert moved > 0.01
        assert difference(*weights) < 0.02 * moved


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return float(torch.cat([(a[key] - b[key]).flatten() for key in a]).norm())


def test_workers_draw_what_a_thread_draws(folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, images=12)
    for name, workers in (("thread", 0), ("workers", 1)):
        train_guide([folder], tmp_path / name, config, CPU, Pace(workers=workers))
    exports = [(tmp_path / name / EXPORT).read_bytes() for name in ("thread", "workers")]
    assert exports[0] == exports[1]


def test_aligned_pictures_have_candidates_of_their_own(folder: Path, tmp_path: Path) -> None:
    photos = guide_training.read_photos([folder], TINY)
    aligned = dataclasses.replace(TINY, data="aligned")
    crops, whole = (load_candidates(tmp_path, photos, c, 6) for c in (TINY, aligned))
    assert len(list(tmp_path.iterdir())) == 2
    assert not np.array_equal(crops.images, whole.images)


def test_training_moves_the_fill_towards_the_truth(folder: Path, tmp_path: Path) -> None:
    told: list[float] = []
    config = dataclasses.replace(
        TINY,
        images=400,
        sizes=(32,),
        size_shares=(1.0,),
        warmup=0,
        learning_rate=5e-3,
        candidate_share=1.0,
        adversarial=0.0,
    )
    pace = Pace(lambda p: told.append(p.loss), report_every=0)
    train_guide([folder], tmp_path, config, CPU, pace)
    assert np.mean(told[-30:]) < 0.9 * np.mean(told[:30])


def test_examples_with_a_candidate_are_made_once_and_turned_together(
    folder: Path, tmp_path: Path
) -> None:
    photos = guide_training.read_photos([folder], TINY)
    first = load_candidates(tmp_path, photos, TINY, 6)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = load_candidates(tmp_path, [], TINY, 6)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == written
    assert np.array_equal(first.fills, again.fills)
    rng = np.random.default_rng(0)
    for side in (32, 64):
        for _ in range(20):
            image, hole, fill = first.draw(rng, side)
            assert image.shape == fill.shape == (side, side, 3)
            assert np.array_equal(image[~hole], fill[~hole])
            assert HOLE_SHARE[0] < hole.mean() < HOLE_SHARE[1]


# the perceptual distance


class Colours(PerceptualDistance):
    """The distance, in unit-length colours in place of a network's features."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def features(self, image: Tensor) -> list[Tensor]:
        return [nn.functional.normalize(image, dim=1)]


def test_distances_are_the_mean_of_squares_and_the_square_of_means_over_the_hole() -> None:
    truth, hole = torch.rand(2, 3, 16, 16) + 0.1, hole_of(16, 16).repeat(2, 1, 1, 1)
    fill = torch.where(hole > 0, torch.rand_like(truth) + 0.1, truth)
    by_place, of_means = Colours()(fill, truth, hole)
    difference = (Colours().features(fill)[0] - Colours().features(truth)[0])[..., hole[0, 0] > 0]
    assert torch.allclose(by_place, difference.square().sum(1).mean(1), rtol=1e-4)
    assert torch.allclose(of_means, difference.mean(2).square().sum(1), rtol=1e-4)


def test_texture_of_the_right_kind_in_the_wrong_place_has_no_distance_of_means() -> None:
    rows = torch.arange(16).reshape(1, 1, 16, 1) % 2
    truth = torch.where(rows > 0, torch.tensor([0.9, 0.1, 0.1]).reshape(1, 3, 1, 1), 0.5)
    truth = truth.expand(1, 3, 16, 16).contiguous()
    hole = torch.zeros(1, 1, 16, 16)
    hole[..., 4:12, 4:12] = 1
    shifted = torch.where(hole > 0, truth.roll(1, 2), truth)
    smooth = torch.where(hole > 0, truth.mean((2, 3), keepdim=True), truth)
    moved, blurred = (Colours()(x, truth, hole) for x in (shifted, smooth))
    assert float(moved.by_place) > float(blurred.by_place)
    assert float(moved.of_means) < 1e-4 < float(blurred.of_means)


def test_feature_networks_take_turns_and_others_than_these_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    asked: list[int] = []

    class Counted(Brightness):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.size = size

        def forward(self, image: Tensor, truth: Tensor, hole: Tensor) -> Distances:
            asked.append(self.size)
            return super().forward(image, truth, hole)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guide_training, "PerceptualDistance", Counted)
        train_guide([folder], tmp_path, dataclasses.replace(TINY, images=16, features=(1, 2)), CPU)
    assert asked[:4] == [1, 2, 1, 2]
    with pytest.raises(UsageError, match="one of: 1, 2"):
        PerceptualDistance(7)


# the guide


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    output = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guide_training, "PerceptualDistance", Brightness)
        train_guide([folder], output, dataclasses.replace(TINY, images=8), CPU)
    return output / EXPORT


@pytest.mark.parametrize("first", ["patchmatch", "none"])
def test_the_trained_guide_fills_any_size_and_keeps_known_pixels(trained: Path, first: str) -> None:
    guide = d2s.load_guide("neural", weights=trained, first=first)
    image, hole = torch.rand(1, 3, 45, 61) * 2 - 1, hole_of(45, 61)
    filled = guide(image, hole)
    assert torch.equal(filled * (1 - hole), image * (1 - hole))
    assert torch.equal(filled, guide(torch.where(hole > 0, 0.3, image), hole))


def test_a_guide_that_corrects_takes_the_first_result_that_it_is_given(trained: Path) -> None:
    guide = d2s.load_guide("neural", weights=trained)
    image, hole = torch.zeros(1, 3, 32, 32), hole_of(32, 32)
    ones = torch.where(hole > 0, 1.0, image)
    filled = guide(image, hole, candidate=ones)
    inside = filled[(hole > 0).expand_as(filled)]
    assert float(inside.mean()) > 0.5


def test_windows_are_corrected_together_as_each_alone(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = d2s.load_guide("neural", weights=trained, first="given")
    rng = np.random.default_rng(0)
    views = []
    for side in (32, 48, 32, 32, 48):
        picture, first = rng.integers(0, 65536, (2, side, side, 3)).astype(np.uint16)
        views.append((picture, hole_of(side, side)[0, 0].numpy() > 0, first))
    monkeypatch.setattr(on_photo, "CORRECT_PIXELS", 2 * 32 * 32)
    together = on_photo.correct_windows(guide, views)
    for view, result in zip(views, together, strict=True):
        assert result.dtype == np.uint16
        assert (result[~view[1]] == view[0][~view[1]]).all()
        (alone,) = on_photo.correct_windows(guide, [view])
        assert np.abs(result.astype(int) - alone).max() <= 4


def test_a_large_picture_is_corrected_at_reduced_size_and_keeps_its_texture(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = d2s.load_guide("neural", weights=trained)
    monkeypatch.setattr(type(guide), "largest", 32)
    seen: list[torch.Size] = []

    def brighten(candidate: torch.Tensor, smooth: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        seen.append(candidate.shape[-2:])
        return candidate + 0.04

    monkeypatch.setattr(guide, "network", brighten)
    image, hole = torch.rand(1, 3, 96, 64) - 0.5, hole_of(96, 64)
    texture = torch.rand(1, 3, 96, 64) - 0.5
    filled = guide(image, hole, candidate=texture)
    assert seen == [(32, 24)]  # 32 x 21, padded to a multiple of 8
    expected = torch.where(hole > 0, texture + 0.04, image)
    assert torch.allclose(filled, expected, atol=1e-5)


def test_what_is_no_copy_may_be_changed_by_any_amount(trained: Path) -> None:
    image, hole = torch.zeros(1, 3, 32, 32), hole_of(32, 32)
    changes = []
    for options in ({"first": "given"}, {"first": "given", "copies": False}, {"first": "none"}):
        guide = d2s.load_guide("neural", weights=trained, **options)
        guide.network = lambda candidate, smooth, hole: candidate + 0.5 * hole
        changes.append(float((guide(image, hole) * hole).sum() / (3 * hole.sum())))
    assert changes == pytest.approx([0, 0.5, 0.5], abs=0.01)


def test_other_files_and_first_guides_are_refused(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(UsageError, match="one of: patchmatch, given, none"):
        d2s.load_guide("neural", weights=trained, first="telea")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no guide made by d2s"):
        d2s.load_guide("neural", weights=tmp_path / "other.pth")


def test_a_file_that_names_no_upsampling_is_of_nearest_pixels_and_unknown_ones_are_refused(
    tmp_path: Path, trained: Path
) -> None:
    tensors, header = read_weights(trained)
    assert d2s.load_guide("neural", weights=trained).network.upsampling == "bilinear"
    for shape, path in (({}, "old"), ({"upsampling": "sinc"}, "new")):
        network = {key: header["network"][key] for key in ("widths", "blocks")} | shape
        write_safetensors(tmp_path / path, dict(tensors), header | {"network": network})
    assert d2s.load_guide("neural", weights=tmp_path / "old").network.upsampling == "nearest"
    with pytest.raises(WeightsError, match="'sinc' is none of bilinear, nearest"):
        d2s.load_guide("neural", weights=tmp_path / "new")


def test_bilinear_upsampling_leaves_no_squares_and_no_grid() -> None:
    """Features of an eighth come to a half without steps; patterns of two pixels cannot be made."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(12, 12)
    candidate, hole = torch.zeros(1, 3, 24, 24), hole_of(24, 24)
    for upsampling, step, grid in (("bilinear", 0.5, 0.0), ("nearest", 1.0, 1.0)):
        network = FillNetwork(FillConfig((8, 8, 16), 1, upsampling))
        assert float(network._twice(ramp).diff(dim=-1).abs().max()) == step
        # the last layer alone makes a board: one channel for each corner of 2 x 2 pixels
        with torch.no_grad():
            network.leave.bias[4:] = (
                nn.functional.pixel_unshuffle(board[None, None, :2, :2], 2).flatten().repeat(3)
            )
        made = network(candidate, candidate, hole).detach()
        assert float((made * hole)[0, 0, 10:14, 10:14].abs().max()) == pytest.approx(grid, abs=1e-6)


def test_results_and_truths_get_the_same_grain_before_they_are_compared(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Noting(Brightness):
        def forward(
            self, image: torch.Tensor, truth: torch.Tensor, hole: torch.Tensor
        ) -> Distances:
            seen.append((image.detach() - truth, truth))
            return super().forward(image, truth, hole)

    monkeypatch.setattr(guide_training, "PerceptualDistance", Noting)
    runs = []
    for name, grain in (("a", 4.0), ("b", 4.0), ("none", 0.0)):
        seen.clear()
        config = dataclasses.replace(TINY, images=4, candidate_share=0.0, grain=grain)
        train_guide([folder], tmp_path / name, config, CPU)
        runs.append(seen[0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert torch.allclose(runs[0][0], runs[2][0], atol=1e-5)
    noise = (runs[0][1] - runs[2][1]) * 127.5
    assert float(noise.std()) == pytest.approx(4.0, rel=0.05)


# the smoother


@pytest.fixture(scope="module")
def smoothed(tmp_path_factory: pytest.TempPathFactory, folder: Path, trained: Path) -> Path:
    """A guide whose smooth fills another guide makes."""
    output = tmp_path_factory.mktemp("smoothed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guide_training, "PerceptualDistance", Brightness)
        config, begin = beginning(TINY, None, str(trained), CPU.device)
        train_guide([folder], output, dataclasses.replace(config, images=8), CPU, begin=begin)
    return output / EXPORT


def test_a_guide_sees_the_fills_of_its_smoother_which_no_step_changes(
    smoothed: Path, trained: Path
) -> None:
    guide, smoother = (
        d2s.load_guide("neural", weights=path, copies=False) for path in (smoothed, trained)
    )
    assert smoother.smoother is None
    state = smoother.network.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in guide.smoother.state_dict().items())
    image, hole = torch.rand(1, 3, 40, 48) * 2 - 1, hole_of(40, 48)
    seen: list[Tensor] = []

    def noting(candidate: Tensor, smooth: Tensor, hole: Tensor) -> Tensor:
        seen.append(smooth)
        return candidate

    guide.network = noting
    guide(image, hole, candidate=image)
    telea = d2s.load_guide("telea")(image, hole)
    assert torch.allclose(seen[0], smoother(image, hole, candidate=telea), atol=1e-5)


def test_the_smoother_of_a_file_corrects_smooth_fills_alone(smoothed: Path, trained: Path) -> None:
    image, hole = torch.rand(1, 3, 40, 48) * 2 - 1, hole_of(40, 48)
    alone = d2s.load_guide("neural", weights=smoothed, first="given", smoother_alone=True)
    expected = d2s.load_guide("neural", weights=trained, first="given", copies=False)
    assert torch.equal(alone(image, hole, candidate=image), expected(image, hole, candidate=image))
    with pytest.raises(WeightsError, match="no network for smooth fills"):
        d2s.load_guide("neural", weights=trained, smoother_alone=True)


def test_a_run_goes_on_from_another_guide_and_keeps_its_smoother(
    folder: Path, tmp_path: Path, smoothed: Path
) -> None:
    wide = dataclasses.replace(TINY, network=FillConfig((16, 16, 16), 2))
    config, begin = beginning(wide, str(smoothed), None, CPU.device)
    assert config.network == TINY.network
    assert (config.init, config.smoother) == (EXPORT, EXPORT)
    config = dataclasses.replace(config, images=24, learning_rate=1e-9)
    straight = train_guide([folder], tmp_path / "straight", config, CPU, begin=begin)
    assert straight.images >= 24
    tensors, _ = read_weights(smoothed)
    found, _ = read_weights(tmp_path / "straight" / EXPORT)
    assert found.keys() == tensors.keys()
    assert all(torch.allclose(v, found[k], atol=1e-3) for k, v in tensors.items())
    # what was interrupted goes on with the smoother of the checkpoint, even without its file
    train_guide([folder], tmp_path / "broken", config, CPU, Pace(stop=stop_after(3)), begin=begin)
    train_guide([folder], tmp_path / "broken", config, CPU)
    exports = [(tmp_path / name / EXPORT).read_bytes() for name in ("straight", "broken")]
    assert exports[0] == exports[1]


def test_a_run_without_a_smoother_gets_none_later(
    folder: Path, tmp_path: Path, smoothed: Path
) -> None:
    train_guide([folder], tmp_path, dataclasses.replace(TINY, images=4), CPU)
    _, begin = beginning(TINY, None, str(smoothed), CPU.device)
    with pytest.raises(UsageError, match="begun without a smoother"):
        train_guide([folder], tmp_path, TINY, CPU, begin=begin)


# validation


@pytest.mark.parametrize("share", [0.75, 0.0])
def test_held_out_pictures_are_judged_and_change_nothing(
    folder: Path, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide_validation, "COUNT", 4)
    config = dataclasses.replace(TINY, candidate_share=share)
    told: list[dict[str, Any]] = []
    pace = Pace(validate_every=16, validated=lambda images, values: told.append(values))
    train_guide([folder], tmp_path / "judged", config, CPU, pace, held_out=[folder])
    train_guide([folder], tmp_path / "alone", config, CPU)
    exports = [(tmp_path / name / EXPORT).read_bytes() for name in ("judged", "alone")]
    assert exports[0] == exports[1]
    lines = (tmp_path / "judged" / "log.jsonl").read_text().splitlines()
    logged = [line["validation"] for line in map(json.loads, lines) if "validation" in line]
    assert logged == told
    assert len(told) == 3
    for values in told:
        l1, means = 2 * values["l1"], values["of_means"]
        parts = config.l1 * l1 + config.perceptual * values["by_place"] + config.style * means
        assert values["loss"] == pytest.approx(parts)
        assert 5 < values["psnr"] < 60
        assert 0 <= values["seam"] <= 1


def test_validation_of_the_truth_is_perfect_and_that_of_first_results_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide_validation, "COUNT", 4)
    photos = guide_training.read_photos([folder], TINY)
    held_out = guide_validation.GuideValidation(photos, TINY, tmp_path)
    distance = Colours()

    def judged(fill: Tensor, batch: Batch) -> tuple[Tensor, Distances]:
        return fill, distance(fill, batch.image, batch.hole)

    best = held_out.values(lambda batch: judged(batch.image, batch))
    assert (best["loss"], best["l1"], best["psnr"]) == (0, 0, BEST_PSNR)
    first = held_out.values(lambda batch: judged(batch.candidate, batch))
    assert first["loss"] > 0.01
    assert held_out.values(lambda batch: judged(batch.candidate, batch)) == first


def test_a_name_that_is_no_guide_is_refused() -> None:
    with pytest.raises(WeightsError, match="no guide at d2s-base"):
        beginning(TINY, "d2s-base", None, CPU.device)


def test_validation_measures_the_loss_that_training_does(folder: Path, tmp_path: Path) -> None:
    """One batch, both ways: without grain and adversary, where all examples weigh alike."""
    config = dataclasses.replace(TINY, grain=0.0, adversarial=0.0, features=(1,))
    trainer = GuideTrainer(config, tmp_path, CPU)
    photos = guide_training.read_photos([folder], config)
    held_out = guide_validation.GuideValidation(photos, config, tmp_path)
    held_out._examples, held_out._fills = held_out._examples[:1], held_out._fills[:1]
    values = held_out.values(trainer.corrected)
    batch = make_batch(held_out._examples)
    fill, _ = trainer.corrected(
        dataclasses.replace(batch, candidate=to_unit_range(held_out._fills))
    )
    loss = trainer._loss(fill, batch.image, batch.hole, trainer._counts(batch.hole))
    # results are rounded to 8 bits before they are scored
    assert values["loss"] == pytest.approx(float(loss), rel=0.03)
