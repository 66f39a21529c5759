"""Refining: what holds for any weights, and exact results with networks whose answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from conftest import TINY, filled
from torch import Tensor, nn

from d2s_cli.diffusion.loss import training_loss
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig, SeededNoise
from d2s_cli.diffusion.sampling import SAMPLERS
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.tiles import OVERLAP, TiledDenoise, tile_boxes, tile_weight
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import UsageError

Scene = tuple[Tensor, Tensor, Tensor]
KEYS = [(7, 0, 0), (7, 1, 0), (7, 2, 0)]


class Oracle(nn.Module):
    """Stands in for the network and knows the truth: its output leads straight to it."""

    def __init__(self, truth: Tensor, prediction: str) -> None:
        super().__init__()
        self.truth, self.prediction = truth, prediction

    def forward(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        x_t, level = x[:, 3:], alpha_bar.reshape(-1, 1, 1, 1)
        a, s = level.sqrt(), (1 - level).sqrt()
        known = (a * x_t - self.truth) if self.prediction == "v" else (x_t - a * self.truth)
        return known / s


def oracle(truth: Tensor, prediction: str) -> Refiner:
    return Refiner(Oracle(truth, prediction), RefinerConfig(unet=TINY, prediction=prediction))  # type: ignore[arg-type]


def assert_known_pixels_kept(out: Tensor, image: Tensor, hole: Tensor) -> None:
    assert torch.equal(torch.where(hole > 0, 0.0, out), torch.where(hole > 0, 0.0, image))


@pytest.mark.parametrize("inject", [False, True])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_fills_the_hole_and_keeps_known_pixels_bit_for_bit(
    tiny_refiner: Refiner, scene: Scene, sampler: str, inject: bool
) -> None:
    image, hole, guide = scene
    out = tiny_refiner.refine(image, hole, guide, 50, 3, sampler, inject=inject)
    assert_known_pixels_kept(out, image, hole)
    assert bool(out.isfinite().all())
    assert float(out.abs().max()) <= 1
    changed = (out != guide).any(1, keepdim=True) & (hole > 0)
    assert float(changed.sum() / hole.sum()) > 0.9


def test_every_start_runs_and_they_differ(tiny_refiner: Refiner, scene: Scene) -> None:
    image, hole, guide = scene
    table = NoiseTable(100)
    results = [
        tiny_refiner.refine(image, hole, guide, 20, 4, schedule=table, start=start)
        for start in ("middle", "start", "noise")
    ]
    for out in results:
        assert_known_pixels_kept(out, image, hole)
    for a, b in combinations(results, 2):
        assert not torch.equal(a, b)


def test_the_start_from_noise_does_not_use_the_guide(tiny_refiner: Refiner, scene: Scene) -> None:
    image, hole, guide = scene
    table = NoiseTable(4, 1e-4, 0.09)
    with_guide = tiny_refiner.refine(image, hole, guide, schedule=table, start="noise")
    assert torch.equal(with_guide, tiny_refiner.refine(image, hole, None, schedule=table))


def test_what_the_image_holds_inside_the_hole_is_not_used(
    tiny_refiner: Refiner, scene: Scene
) -> None:
    image, hole, guide = scene
    out = tiny_refiner.refine(image, hole, guide, 50, 2)
    blind = torch.where(hole > 0, torch.nan, image)
    assert torch.equal(tiny_refiner.refine(blind, hole, guide, 50, 2), out)


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp"])
def test_a_result_does_not_depend_on_its_neighbours_in_the_batch(
    tiny_refiner: Refiner, scene: Scene, sampler: str
) -> None:
    image, hole, guide = scene
    batch = tiny_refiner.refine(image, hole, guide, 50, 3, sampler, seed=KEYS)
    for i in range(3):
        one = slice(i, i + 1)
        alone = tiny_refiner.refine(
            image[one], hole[one], guide[one], 50, 3, sampler, seed=KEYS[one]
        )
        assert torch.allclose(alone, batch[one], atol=1e-4)


def test_the_same_seed_gives_the_same_result_and_another_sample_another(
    tiny_refiner: Refiner, scene: Scene
) -> None:
    image, hole, guide = (t[:1] for t in scene)

    def run(key: tuple[int, int, int]) -> Tensor:
        return tiny_refiner.refine(image, hole, guide, 50, 2, seed=[key])

    assert torch.equal(run((7, 0, 0)), run((7, 0, 0)))
    for other in ((8, 0, 0), (7, 1, 0), (7, 0, 1)):
        assert not torch.equal(run((7, 0, 0)), run(other))


def test_noise_does_not_depend_on_the_order_of_the_batch() -> None:
    shape = (3, 3, 8, 8)
    straight, turned = SeededNoise(KEYS, 3), SeededNoise(KEYS[::-1], 3)
    for _ in range(2):
        assert torch.equal(straight(shape), turned(shape).flip(0))


def test_grey_mask_values_count_as_hole_from_one_half_on(
    tiny_refiner: Refiner, scene: Scene
) -> None:
    image, hole, guide = scene
    grey = torch.where(hole > 0, 0.5, 0.49)
    out = tiny_refiner.refine(image, grey, guide, 50, 1)
    assert torch.equal(out, tiny_refiner.refine(image, hole, guide, 50, 1))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_an_ideal_predictor_restores_the_truth(scene: Scene, sampler: str, prediction: str) -> None:
    image, hole, guide = scene
    out = oracle(image, prediction).refine(image, hole, guide, 200, 5, sampler, inject=False)
    assert torch.allclose(out, image, atol=1e-4)


def test_v_and_eps_agree_for_an_ideal_predictor(scene: Scene) -> None:
    image, _, guide = scene
    x_t, levels = guide + 0.1, torch.tensor([0.9, 0.8, 0.3])
    eps, v = (oracle(image, kind) for kind in ("eps", "v"))
    noise = eps.predict_noise(image, x_t, levels)
    assert torch.allclose(v.predict_noise(image, x_t, levels), noise, atol=1e-5)
    for refiner in (eps, v):
        assert torch.allclose(refiner.predict_x0(image, x_t, levels), image, atol=1e-5)


# training loss


def draws(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hole_noise, noise = torch.randn(2, *image.shape, generator=generator)
    return hole_noise, noise, torch.tensor([0.99, 0.8, 0.3])


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_loss_of_the_perfect_predictor_is_zero(scene: Scene, prediction: str) -> None:
    image, hole, _ = scene
    loss = training_loss(oracle(image, prediction), image, hole, *draws(image))
    assert float(loss) < 1e-8


def test_the_loss_counts_the_hole_only_and_averages_over_the_picture(scene: Scene) -> None:
    image, hole, _ = scene
    hole_noise, noise, levels = draws(image)
    silent = Refiner(filled(UNet(TINY)), RefinerConfig(unet=TINY))
    nn.init.zeros_(silent.unet.out[-1].weight)
    nn.init.zeros_(silent.unet.out[-1].bias)
    args = silent, image, hole, hole_noise, noise, levels
    squares = (hole * noise) ** 2
    assert float(training_loss(*args)) == pytest.approx(float(squares.mean()), rel=1e-5)
    share = float(hole.mean())
    per_hole = float(training_loss(*args, per_hole=True))
    assert per_hole == pytest.approx(float(squares.mean()) / share, rel=1e-5)


# tiles


@pytest.mark.parametrize("size", [(70, 100), (24, 90), (65, 64), (129, 33)])
def test_tiles_cover_the_picture_and_overlap(size: tuple[int, int]) -> None:
    height, width = size
    boxes = tile_boxes(height, width, 32, 4)
    seen = torch.zeros(size)
    for top, left, h, w in boxes:
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        seen[top : top + h, left : left + w] += 1
    assert bool((seen > 0).all())
    for axis, side in ((0, min(32, height)), (1, min(32, width))):
        begins = sorted({box[axis] for box in boxes})
        gaps = [b - a for a, b in itertools.pairwise(begins)]
        assert all(gap <= side * (1 - OVERLAP) for gap in gaps)


@pytest.mark.parametrize("side", [0, 64, 100])
def test_a_picture_that_fits_is_one_tile(side: int) -> None:
    assert tile_boxes(64, 50, side, 4) == [(0, 0, 64, 50)]


def test_tile_weights_are_positive_and_largest_in_the_middle() -> None:
    weight = tile_weight(8, 6)
    assert weight.shape == (1, 1, 8, 6)
    assert float(weight.min()) > 0
    assert weight[0, 0, 3, 2] == weight.max()


@pytest.mark.parametrize(
    "predict",
    [
        lambda x, ab, inputs: torch.full_like(x, 0.25),
        lambda x, ab, inputs: ab * x + inputs[0],
    ],
    ids=["constant", "pixel by pixel"],
)
def test_tiling_a_predictor_without_context_is_exact(
    predict: Callable[[Tensor, float, list[Tensor]], Tensor],
) -> None:
    x, other = torch.randn(2, 2, 3, 70, 50, generator=torch.Generator().manual_seed(0))
    tiled = TiledDenoise(predict, tile_boxes(70, 50, 32, 4), torch.ones(2, 1, 70, 50))
    assert torch.allclose(tiled(x, 0.5, [other]), predict(x, 0.5, [other]), atol=1e-5)


def test_tiles_without_hole_are_not_computed() -> None:
    computed = 0

    def predict(x: Tensor, ab: float, inputs: object) -> Tensor:
        nonlocal computed
        computed += len(x)
        return torch.zeros_like(x)

    hole = torch.zeros(1, 1, 100, 100)
    hole[..., :4, :4] = 1
    tiled = TiledDenoise(predict, tile_boxes(100, 100, 32, 4), hole)
    x = torch.ones(1, 3, 100, 100)
    out = tiled(x, 0.5, [])
    assert computed == 1
    assert float(out[..., :4, :4].abs().max()) == 0
    assert float(out[..., 40:, 40:].min()) == 1


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp"])
def test_a_picture_larger_than_a_tile_is_refined_in_tiles(
    tiny_refiner: Refiner, scene: Scene, sampler: str
) -> None:
    image, hole, guide = (torch.cat([t[:2], t[1:]], 3) for t in scene)
    whole = tiny_refiner.refine(image, hole, guide, 50, 2, sampler, tile=0)
    tiled = tiny_refiner.refine(image, hole, guide, 50, 2, sampler, tile=24)
    assert_known_pixels_kept(tiled, image, hole)
    # the state and its noise are one picture, so tiles change the result a little, not its noise
    assert not torch.equal(tiled, whole)
    assert float((tiled - whole).abs().mean()) < 0.1


def test_a_tiled_result_does_not_depend_on_its_neighbours_holes(
    tiny_refiner: Refiner, scene: Scene
) -> None:
    image, hole, guide = scene
    batch = tiny_refiner.refine(image, hole, guide, 50, 2, seed=KEYS, tile=16)
    alone = tiny_refiner.refine(image[2:], hole[2:], guide[2:], 50, 2, seed=KEYS[2:], tile=16)
    assert torch.allclose(alone, batch[2:], atol=1e-4)


# wrong input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": torch.zeros(3, 1, 32, 32)}, "image must be"),
        ({"image": torch.zeros(3, 32, 32)}, "image must be"),
        ({"hole": torch.zeros(3, 3, 32, 32)}, "hole must be"),
        ({"hole": torch.zeros(1, 1, 32, 32)}, "hole must be"),
        ({"guide": torch.zeros(3, 3, 32, 30)}, "guide must be"),
        ({"sampler": "euler"}, "sampler"),
        ({"start": "end"}, "start"),
        ({"seed": [(0, 0, 0)]}, "1 seeds for a batch of 3"),
        ({"tk": 0}, "T_k"),
        ({"tk": 5000}, "T_k"),
        ({"tk": 10, "steps": 11}, "11 steps"),
        ({"spacing": "cosine"}, "spacing"),
    ],
)
def test_input_that_makes_no_sense_is_an_error_that_says_so(
    tiny_refiner: Refiner, scene: Scene, change: dict[str, object], words: str
) -> None:
    arguments: dict[str, object] = dict(zip(("image", "hole", "guide"), scene, strict=True))
    with pytest.raises(UsageError, match=words):
        tiny_refiner.refine(**{**arguments, **change})  # type: ignore[arg-type]


def test_a_refiner_of_a_folded_network_refines(scene: Scene) -> None:
    config = UNetConfig(32, (1, 2), 1, unshuffle=2)
    refiner = Refiner(filled(UNet(config)), RefinerConfig(unet=config, prediction="v"))
    image, hole, guide = (t[..., :30, :31] for t in scene)
    out = refiner.refine(image, hole, guide, 50, 2)
    assert_known_pixels_kept(out, image, hole)
