"""benchmarks/training_recipes.py: one thing changes at a time, numbers are kept, verdicts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import photo
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import training_recipes as bench

from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.training import validation
from d2s_cli.training.refiner import MODERN, RefinerTrainer

TINY = dataclasses.replace(
    MODERN, unet=UNetConfig(64, (1,), 1, unshuffle=4), sizes=(32,), size_shares=(1.0,)
)

#: fields that make up one thing: distributions of noise levels and sizes, the course of the rate
TOGETHER = ({"tk_max", "tk_power"}, {"lr_schedule", "cooldown"}, {"sizes", "size_shares"})


def differing(recipe: bench.Recipe, base: bench.Recipe) -> set[str]:
    names = {field.name for field in dataclasses.fields(recipe.config)}
    found = {n for n in names if getattr(recipe.config, n) != getattr(base.config, n)}
    return found | ({"precision"} if recipe.precision != base.precision else set())


@pytest.mark.parametrize("images", [960, MODERN.images])
def test_each_recipe_differs_from_the_preset_in_one_thing(images: int) -> None:
    base, *others = bench.recipes(bench.shortened(MODERN, images))
    assert base.name == bench.BASE
    changes = [differing(recipe, base) for recipe in others]
    assert all(len(fields) == 1 or fields in TOGETHER for fields in changes)
    assert len({frozenset(fields) for fields in changes}) >= 10
    assert len({recipe.name for recipe in others}) == len(others)


def test_a_short_run_is_the_preset_but_for_what_counts_images() -> None:
    base = bench.shortened(MODERN, MODERN.images // 100)
    assert (base.warmup, base.ema_halflife) == (MODERN.warmup / 100, MODERN.ema_halflife / 100)
    assert base.cooldown == 0.2 * base.images
    again = bench.shortened(MODERN, MODERN.images)
    assert again == dataclasses.replace(MODERN, cooldown=round(0.2 * MODERN.images))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_errors_of_x0_are_those_of_the_refiners_estimate(
    prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of the validation, converted, against predict_x0 on the same inputs."""
    refiner = Refiner(UNet(TINY.unet).eval(), RefinerConfig(TINY.unet, prediction))
    level = torch.tensor([0.7])
    x_t, condition, truth = (torch.randn(1, 3, 32, 32) for _ in range(3))
    predicted = torch.randn(1, 3, 32, 32)
    monkeypatch.setattr(refiner, "predict", lambda *_: predicted)
    noise = (x_t - level.sqrt() * truth) / (1 - level).sqrt()
    target = noise if prediction == "eps" else level.sqrt() * noise - (1 - level).sqrt() * truth
    error = (refiner.predict_x0(condition, x_t, level) - truth).square().mean()
    loss = (predicted - target).square().mean()
    assert float(error) == pytest.approx(float(loss) * bench.x0_factor(0.7, prediction), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "away", "found"),
    [
        ("error", -3.0, "better"),
        ("error", 3.0, "worse"),
        ("error", -0.9, ""),
        ("error", 0.9, ""),
        ("psnr", 3.0, "better"),
        ("psnr", -3.0, "worse"),
        ("psnr", 0.9, ""),
    ],
)
def test_only_what_exceeds_the_spread_is_better_or_worse(
    name: str, away: float, found: str
) -> None:
    assert bench.verdict(name, away, 1.0) == found


# a whole comparison


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture = Image.fromarray(photo(70, 80, i + 10 * (name == "val")))
            picture.save(tmp_path / name / f"{i}.png")
    words = [tmp_path / "train", "--val", tmp_path / "val", "--output", tmp_path / "runs"]
    words += ["--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md"]
    words += ["--images", 16, "--rounds", 1, "--only", "modern", "seed-1", "eps"]
    return bench.build_parser().parse_args([str(word) for word in words])


@pytest.fixture(autouse=True)
def few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "COUNT", 2)


def test_a_comparison_ends_in_a_table_and_goes_on_where_it_was(
    args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    args.markdown.write_text("above\n<!-- recipes -->\nold\n<!-- /recipes -->\nbelow\n")
    first = bench.run(args, TINY)
    page = args.markdown.read_text()
    assert page.startswith("above\n")
    assert page.endswith("below\n")
    assert "old" not in page
    for start in ("no network", "**modern**", "**seed-1**", "**eps**", "spread"):
        assert page.count(f"\n| {start}") == 1
    assert "Timed, not trained: batch-half x" in page
    assert set(first["speed"]) == {
        *("modern", "batch-half", "batch-double", "width-half", "width-more", "fp32")
    }

    steps: list[int] = []
    monkeypatch.setattr(RefinerTrainer, "step", counting(RefinerTrainer.step, steps))
    assert names(bench.run(args, TINY)) == ["modern", "seed-1", "eps"]
    assert not steps
    args.only = ["cosine"]
    assert names(bench.run(args, TINY)) == ["modern", "seed-1", "cosine", "eps"]
    assert len(steps) == 2
    # other settings: nothing of the above may stay in the table
    args.images, args.rounds, args.only = 24, 0, ["modern"]
    assert names(bench.run(args, TINY)) == ["modern"]
    assert len(steps) == 5
    assert names(json.loads(args.json.read_text())) == ["modern"]


def counting(step: Any, steps: list[int]) -> Any:
    def counted(trainer: RefinerTrainer, batch: Any) -> float:
        steps.append(trainer.step_number)
        return float(step(trainer, batch))

    return counted


def names(data: dict[str, Any]) -> list[str]:
    return [row["name"] for row in data["rows"]]
