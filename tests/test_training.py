"""Masks, examples and the training loop, on generated pictures and a tiny network."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photo
from PIL import Image
from torch import nn

from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.unet import UNetConfig
from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.draw_masks import Hole, mat_mask, scratch_mask
from d2s_cli.runtime import Compute
from d2s_cli.training import samples
from d2s_cli.training.checkpoints import CHECKPOINT
from d2s_cli.training.data import (
    Batch,
    Example,
    draw_example,
    make_batch,
)
from d2s_cli.training.ema import Ema, ema_decay
from d2s_cli.training.logbook import LOG
from d2s_cli.training.masks import mixed_mask
from d2s_cli.training.pictures import load_photos
from d2s_cli.training.refiner import EXPORT, MODERN, PAPER, RefinerTrainer, TrainConfig, train
from d2s_cli.training.run import Pace
from d2s_cli.training.streams import BatchStream

CPU = Compute(torch.device("cpu"))
TINY_RUN = TrainConfig(
    unet=UNetConfig(32, (1, 2), 1, unshuffle=2),
    prediction="v",
    images=96,
    batch=8,
    sizes=(32,),
    learning_rate=1e-3,
    table_steps=1000,
    tk_max=400,
    masks="mixed",
    per_hole=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    for i in range(24):
        Image.fromarray(photo(64 + i, 80, i)).save(path / f"{i:02d}.png")
    return path


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures written on the way would take longer than the training here."""
    monkeypatch.setattr(samples, "SIZE", 32)
    monkeypatch.setattr(samples, "COUNT", 2)


# masks


@pytest.mark.parametrize(
    ("kind", "mean", "std"), [("large", 0.406, 0.187), ("small", 0.220, 0.149)]
)
def test_mat_masks_have_the_published_generators_statistics(
    kind: str, mean: float, std: float
) -> None:
    shares = [mat_mask(np.random.default_rng(i), 256, kind).mean() for i in range(1000)]
    assert np.mean(shares) == pytest.approx(mean, abs=0.02)
    assert np.std(shares) == pytest.approx(std, abs=0.02)


@pytest.mark.parametrize("draw", [mat_mask, scratch_mask, mixed_mask])
def test_a_mask_depends_on_its_seed_alone(
    draw: Callable[[np.random.Generator, int], Hole],
) -> None:
    masks = [draw(np.random.default_rng(seed), 64) for seed in (5, 6, 5)]
    assert np.array_equal(masks[0], masks[2])
    assert not np.array_equal(masks[0], masks[1])


@pytest.mark.parametrize("draw", [mat_mask, scratch_mask, mixed_mask])
def test_masks_are_never_empty_and_never_full(
    draw: Callable[[np.random.Generator, int], Hole],
) -> None:
    for seed in range(60):
        mask = draw(np.random.default_rng(seed), 64)
        assert mask.shape == (64, 64)
        assert mask.dtype == bool
        assert 0 < mask.sum() < mask.size


# examples


def example(number: int, seed: int = 0, recipe: str = "mixed") -> Example:
    photos = [photo(64, 200), photo(90, 70, 1), photo(30, 40, 2)]
    return draw_example(photos, seed, number, 48, recipe)


def fields_equal(a: Example, b: Example) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
    )


@pytest.mark.parametrize("recipe", ["paper", "mixed"])
def test_an_example_depends_on_its_seed_and_number_alone(recipe: str) -> None:
    first = example(3, recipe=recipe)
    example(4, recipe=recipe)
    assert fields_equal(first, example(3, recipe=recipe))
    assert not fields_equal(first, example(4, recipe=recipe))
    assert not fields_equal(first, example(3, seed=1, recipe=recipe))


def test_examples_have_their_size_and_a_hole() -> None:
    for e in (example(i) for i in range(40)):
        assert e.image.shape == (48, 48, 3)
        assert e.image.dtype == np.uint8
        assert 0 < e.hole.sum() < e.hole.size


def test_batches_are_in_unit_range_with_holes_of_ones() -> None:
    batch = make_batch([example(i) for i in range(4)])
    assert batch.image.shape == (4, 3, 48, 48)
    assert batch.hole.shape == (4, 1, 48, 48)
    assert float(batch.image.min()) >= -1
    assert float(batch.image.max()) <= 1
    assert set(batch.hole.unique().tolist()) == {0.0, 1.0}


def test_unreadable_and_tiny_files_are_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sub").mkdir()
    Image.fromarray(photo(64, 80)).save(tmp_path / "sub" / "good.png")
    whole = (tmp_path / "sub" / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture, and not said to be one")
    Image.fromarray(photo(20, 80)).save(tmp_path / "tiny.png")
    with caplog.at_level(logging.WARNING):
        assert len(load_photos([tmp_path])) == 1
    for name in ("cut.png", "words.jpg", "tiny.png"):
        assert name in caplog.text
    assert "good.png" not in caplog.text
    assert "notes.txt" not in caplog.text


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=tmp_path.name):
        load_photos([tmp_path])


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        train([tmp_path / "nowhere"], tmp_path / "out", TINY_RUN, CPU)
    assert not (tmp_path / "out").exists()


def test_the_stream_begins_at_the_step_asked_for_and_keeps_order() -> None:
    def draw(step: int) -> Batch:
        return Batch(torch.tensor(float(step)), torch.tensor(float(step)))

    stream = BatchStream(draw, 5)
    try:
        assert [int(batch.image) for batch in islice(stream, 10)] == list(range(5, 15))
    finally:
        stream.close()


def test_an_error_while_drawing_reaches_the_trainer() -> None:
    def draw(step: int) -> Batch:
        raise InputError("the picture is gone")

    stream = BatchStream(draw, 0)
    try:
        with pytest.raises(InputError, match="gone"):
            next(iter(stream))
    finally:
        stream.close()


# average


def test_the_average_of_a_constant_is_the_constant_and_it_follows_by_its_decay() -> None:
    layer = nn.Linear(2, 1)
    ema = Ema(layer)
    before = ema.average["weight"].clone()
    ema.update(layer, 0.9)
    assert torch.equal(ema.average["weight"], before)
    with torch.no_grad():
        layer.weight += 1
    ema.update(layer, 0.9)
    assert torch.allclose(ema.average["weight"], before + 0.1, atol=1e-6)


def test_half_life_is_counted_in_images_and_ramps_up() -> None:
    assert ema_decay(10**9, 100, 100, None) == pytest.approx(0.5)
    assert ema_decay(0, 8, 20_000, None) == pytest.approx(0)
    assert ema_decay(1000, 100, 20_000, None) == pytest.approx(0.5)
    assert ema_decay(0, 3, 20_000, 0.9999) == 0.9999


# loop


def test_the_papers_preset_is_the_papers() -> None:
    assert PAPER.unet == UNetConfig(dropout=0.2)
    assert (PAPER.learning_rate, PAPER.batch, PAPER.ema_decay) == (5e-5, 3, 0.9999)
    assert (PAPER.table_steps, PAPER.tk_max, PAPER.masks) == (2000, None, "paper")
    assert (PAPER.prediction, PAPER.weight_decay) == ("eps", 0.0)


def test_training_levels_are_those_of_the_table_between_their_ends(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tiny = dataclasses.replace(PAPER, unet=TINY_RUN.unet)
    trainer = RefinerTrainer(tiny, tmp_path, CPU)
    levels = trainer.noise_levels(rng, 2000)
    # level by level: positions in the table are even between 1 and T
    positions = np.interp(levels, trainer.table.alpha_bar[::-1], np.arange(2000, 0, -1))
    assert positions.min() >= 0.99
    assert positions.max() <= 2000
    assert positions.mean() == pytest.approx(1000, abs=50)
    modern = RefinerTrainer(dataclasses.replace(MODERN, unet=TINY_RUN.unet), tmp_path, CPU)
    lowest = modern.table.at(400)
    assert float(modern.noise_levels(rng, 2000).min()) >= lowest - 1e-6


def test_the_learning_rate_warms_up_and_cools_down() -> None:
    config = dataclasses.replace(TINY_RUN, images=1000, warmup=80, cooldown=100)
    rates = [config.rate_at(i) / config.learning_rate for i in (0, 32, 72, 500, 950, 1000)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0])


def test_larger_crops_come_in_smaller_batches() -> None:
    config = dataclasses.replace(TINY_RUN, sizes=(32, 64), size_shares=(0.5, 0.5))
    assert {config.size_of(step) for step in range(30)} == {(32, 8), (64, 2)}


def test_training_lowers_the_loss_and_exports_a_refiner(folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_RUN, images=400)
    told: list[float] = []
    train([folder], tmp_path, config, CPU, Pace(lambda p: told.append(p.loss), report_every=0))
    assert len(told) == 50
    assert np.mean(told[-15:]) < 0.7 * np.mean(told[:10])
    logged = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [entry["loss"] for entry in logged] == told
    assert logged[-1]["images"] == 400
    refiner = load_refiner(tmp_path / EXPORT)
    assert refiner.config.prediction == "v"
    assert refiner.config.about["images_seen"] == 400
    assert (tmp_path / "samples" / "000000400.png").is_file()
    assert not list(tmp_path.rglob("*.part"))


def stop_after(steps: int) -> Callable[[], bool]:
    asked = count()
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    folder: Path, tmp_path: Path, dropout: float
) -> None:
    unet = dataclasses.replace(TINY_RUN.unet, dropout=dropout)
    config = dataclasses.replace(TINY_RUN, unet=unet)
    straight = train([folder], tmp_path / "straight", config, CPU)
    broken = train([folder], tmp_path / "broken", config, CPU, Pace(stop=stop_after(5)))
    assert (broken.images, broken.step_number) == (40, 5)
    resumed = train([folder], tmp_path / "broken", config, CPU)
    assert resumed.images == straight.images == 96
    for key, value in straight.refiner.unet.state_dict().items():
        assert torch.equal(resumed.refiner.unet.state_dict()[key], value), key
        assert torch.equal(resumed.ema.average[key], straight.ema.average[key]), key
    exports = [(tmp_path / name / EXPORT).read_bytes() for name in ("straight", "broken")]
    assert exports[0] == exports[1]


def test_a_finished_run_is_not_trained_further(folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_RUN, images=16)
    train([folder], tmp_path, config, CPU)
    before = (tmp_path / EXPORT).read_bytes()
    assert train([folder], tmp_path, config, CPU).step_number == 2
    assert (tmp_path / EXPORT).read_bytes() == before


def test_going_on_with_another_network_is_an_error(folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_RUN, images=8)
    train([folder], tmp_path, config, CPU)
    assert (tmp_path / CHECKPOINT).is_file()
    other = dataclasses.replace(config, unet=UNetConfig(32, (1,), 1))
    with pytest.raises(UsageError, match="another network"):
        train([folder], tmp_path, other, CPU)


@pytest.mark.parametrize("change", [{"images": 0}, {"batch": 0}])
def test_impossible_settings_are_errors(
    folder: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    with pytest.raises(UsageError):
        train([folder], tmp_path, dataclasses.replace(TINY_RUN, **change), CPU)  # type: ignore[arg-type]
