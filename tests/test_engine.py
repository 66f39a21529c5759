"""The engine: batches, large holes, settings that follow from weights and pictures."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import photo
from PIL import Image

from d2s_cli import engine
from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import UsageError
from d2s_cli.recipe import (
    FALLBACK,
    PRESETS,
    Recipe,
    Settings,
    adapted_tk,
    resolve_recipe,
    with_preset,
)
from d2s_cli.weights.reading import write_safetensors

UNET = UNetConfig(inner_channels=32, channel_mults=(1, 2), res_blocks=1, unshuffle=2)
QUICK = {"tk": 50, "steps": 2, "sampler": "dpmpp-sde", "inject": False}
CONFIG = RefinerConfig(
    unet=UNET, prediction="v", alpha_bar_min=0.4, tile=128, defaults={"*": QUICK}
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_safetensors(path, UNet(UNET).state_dict(), CONFIG.to_json())
    return path


def save(
    folder: Path, name: str, size: tuple[int, int], box: tuple[int, int, int, int], seed: int = 0
) -> None:
    """A photo (height, width) and its mask: white from (top, left) to (bottom, right)."""
    Image.fromarray(photo(*size, seed)).save(folder / f"{name}.png")
    hole = np.zeros(size, np.uint8)
    hole[box[0] : box[2], box[1] : box[3]] = 255
    Image.fromarray(hole).save(folder / f"{name}_mask.png")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that went through Refiner.refine."""
    shapes: list[tuple[int, ...]] = []
    honest: Callable[..., torch.Tensor] = Refiner.refine

    def spy(self: Refiner, image: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        shapes.append(tuple(image.shape))
        return honest(self, image, *args, **options)

    monkeypatch.setattr(Refiner, "refine", spy)
    return shapes


def test_windows_of_many_files_run_as_one_batch(
    tmp_path: Path, weights: Path, batches: list[tuple[int, ...]]
) -> None:
    for i in range(4):
        save(tmp_path, f"p{i}", (150 + 10 * i, 170), (40, 50, 60, 70), i)
    entries = engine.inpaint(
        tmp_path, output=tmp_path / "out", guide="telea", weights=weights, batch=1, device="cpu"
    )
    assert [e["status"] for e in entries] == ["done"] * 4
    assert batches == [(4, 3, 64, 64)]


def test_a_picture_gets_the_same_result_alone_and_in_a_batch(tmp_path: Path, weights: Path) -> None:
    for i in range(3):
        save(tmp_path, f"p{i}", (150, 170), (40, 50, 60, 70), i)
    options = {"guide": "telea", "weights": weights, "device": "cpu", "precision": "fp32"}
    engine.inpaint(tmp_path, output=tmp_path / "many", **options)
    engine.inpaint(tmp_path / "p1.png", output=tmp_path / "alone.png", **options)
    together = read(tmp_path / "many" / "p1.png").astype(int)
    assert np.abs(together - read(tmp_path / "alone.png")).max() <= 1


def test_workers_beside_the_network_change_no_result(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(7):
        save(tmp_path / "in", f"p{i}", (90, 110), (30, 40, 60, 70), i)
    (tmp_path / "in" / "p3.png").write_bytes(b"no picture")
    told = {}
    for workers in (0, 3):
        told[workers] = engine.inpaint(
            tmp_path / "in",
            output=tmp_path / f"out{workers}",
            guide="telea",
            weights=weights,
            device="cpu",
            batch=1,
            workers=workers,
        )
    names = [[Path(e["input"]["path"]).stem for e in told[w]] for w in (0, 3)]
    assert sorted(names[0]) == sorted(names[1]) == [f"p{i}" for i in range(7)]
    hashes = [
        {e["input"]["path"]: e["output"].get("sha256", e["status"]) for e in told[workers]}
        for workers in (0, 3)
    ]
    assert hashes[0] == hashes[1]
    assert list(hashes[0].values()).count("failed") == 1


def test_a_hole_larger_than_the_window_is_corrected_small_and_then_refined_in_tiles(
    tmp_path: Path, weights: Path, batches: list[tuple[int, ...]]
) -> None:
    save(tmp_path, "big", (300, 420), (40, 60, 250, 340))
    (entry,) = engine.inpaint(tmp_path / "big.png", guide="telea", weights=weights, device="cpu")
    assert entry["status"] == "done"
    assert entry["changed_outside"] == 0
    (small, large) = batches
    assert max(small[-2:]) == 128
    assert large[-2:] == (300, 420)
    before, after = read(tmp_path / "big.png"), read(tmp_path / "big_d2s.png")
    changed = (before != after).any(axis=2)
    assert changed[40:250, 60:340].mean() > 0.9
    changed[40:250, 60:340] = False
    assert not changed.any()


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        save(tmp_path, f"p{i}", (150, 170), (40, 50, 60, 70), i)
    honest: Callable[..., torch.Tensor] = Refiner.refine
    sizes: list[int] = []
    failed: list[weakref.ref[torch.Tensor]] = []

    def small_memory(self: Refiner, image: torch.Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(len(image))
        # what the calls that failed held is free again
        assert not any(tensor() is not None for tensor in failed)
        if len(image) > 1:
            failed.append(weakref.ref(image))
            raise torch.OutOfMemoryError("made up")
        return honest(self, image, *args, **options)

    monkeypatch.setattr(Refiner, "refine", small_memory)
    entries = engine.inpaint(
        tmp_path, output=tmp_path / "out", guide="telea", weights=weights, device="cpu"
    )
    assert [e["status"] for e in entries] == ["done"] * 4
    assert sizes == [4, 2, 1, 1, 2, 1, 1]


def adaptive(gain: float) -> dict[str, Any]:
    return {"*": QUICK | {"texture_gain": gain}}


def with_defaults(weights: Path, defaults: dict[str, dict[str, Any]]) -> Refiner:
    refiner = load_refiner(weights)
    config = dataclasses.replace(refiner.config, defaults=defaults)
    return Refiner(refiner.unet, config, refiner.compute, name=refiner.name)


def test_the_users_settings_win_over_measured_defaults_and_those_over_the_fallback(
    weights: Path,
) -> None:
    refiner = with_defaults(weights, {"telea": {"tk": 70, "steps": 7}, "*": {"tk": 20, "steps": 3}})
    telea = resolve_recipe(Settings(), refiner, "telea")
    assert (telea.tk, telea.steps, telea.sampler) == (70, 7, "dpmpp-sde")
    assert resolve_recipe(Settings(), refiner, "ns").tk == 20
    mine = resolve_recipe(Settings(tk=90, sampler="ddim", inject=False), refiner, "telea")
    assert (mine.tk, mine.steps, mine.sampler, mine.inject) == (90, 7, "ddim", False)


def test_fills_that_no_network_corrects_have_defaults_of_their_own(weights: Path) -> None:
    corrected = {"correct": True, "texture_gain": 0.25, "uncorrected": {"texture_gain": 1.5}}
    refiner = with_defaults(weights, {"telea": QUICK | corrected})
    low = resolve_recipe(Settings(), refiner, "telea", missing=8.0)
    high = resolve_recipe(Settings(correct=False), refiner, "telea", missing=8.0)
    assert low.correct
    assert not high.correct
    assert high.tk == adapted_tk(8.0, 1.5, QUICK["tk"]) > low.tk


def test_a_preset_is_its_options_and_single_options_win(weights: Path) -> None:
    refiner = load_refiner(weights)

    def recipe(preset: str, **given: Any) -> Recipe:
        settings = with_preset(Settings(preset=preset, **given))
        return resolve_recipe(settings, refiner, "telea", missing=9.0)

    paper = {"tk": 200, "steps": 200, "sampler": "ddpm", "inject": True, "correct": False}
    assert recipe("paper") == recipe("balanced", spacing="time", **paper)
    assert recipe("balanced") == resolve_recipe(Settings(), refiner, "telea", missing=9.0)
    fast = PRESETS["fast"]
    assert recipe("fast") == recipe("balanced", **fast)
    assert fast["steps"] < FALLBACK["steps"]
    # every step, also where the start or the table is another
    assert (recipe("paper", tk=90).tk, recipe("paper", tk=90).steps) == (90, 90)
    assert recipe("paper", steps=8, sampler="ddim").steps == 8
    assert not recipe("paper", inject=False).inject
    whole = with_preset(Settings(preset="paper", start="start", table_steps=300))
    assert whole.steps == 300
    with pytest.raises(UsageError, match="unknown preset 'best'"):
        with_preset(Settings(preset="best"))


def test_the_start_follows_the_missing_texture_unless_the_user_says(weights: Path) -> None:
    refiner = with_defaults(weights, adaptive(1.0))
    assert resolve_recipe(Settings(), refiner, "telea", missing=0.2).tk == 0
    assert 0 < resolve_recipe(Settings(), refiner, "telea", missing=8.0).tk < 50
    assert resolve_recipe(Settings(), refiner, "telea", missing=90.0).tk == 50
    assert resolve_recipe(Settings(tk=10), refiner, "telea", missing=90.0).tk == 10
    # nor can more steps be walked than that start has; with a start of one's own that is an error
    many = resolve_recipe(Settings(steps=60), refiner, "telea", missing=8.0)
    assert 0 < many.tk == many.steps
    assert resolve_recipe(Settings(steps=60, tk=10), refiner, "telea").steps == 60


@pytest.mark.parametrize("length", [500, 2000])
def test_another_table_starts_at_the_same_noise(weights: Path, length: int) -> None:
    refiner = with_defaults(weights, {"*": {"tk": 100, "steps": 5}})
    recipe = resolve_recipe(Settings(table_steps=length), refiner, "telea")
    assert recipe.table == NoiseTable(length)
    assert recipe.table.at(recipe.tk) == pytest.approx(NoiseTable(1000).at(100), abs=3e-3)


def test_noise_that_the_weights_never_saw_is_an_error(weights: Path) -> None:
    with pytest.raises(UsageError, match="know noise up to step"):
        resolve_recipe(Settings(tk=900), load_refiner(weights), "telea")


def test_a_guide_result_as_textured_as_its_surroundings_is_left_as_it_is(
    tmp_path: Path, weights: Path
) -> None:
    refiner = with_defaults(weights, adaptive(1.0))
    path = tmp_path / "adaptive.safetensors"
    write_safetensors(path, refiner.unet.state_dict(), refiner.config.to_json())
    save(tmp_path, "a", (150, 170), (40, 50, 90, 110), 1)
    Image.fromarray(photo(150, 170, 2)).save(tmp_path / "a_out.png")  # as rich as the photo
    (entry,) = engine.refine(
        tmp_path / "a.png", tmp_path / "a_out.png", weights=path, output=tmp_path / "r.png"
    )
    assert entry["tk"] == [0]
    result, first = read(tmp_path / "r.png"), read(tmp_path / "a_out.png")
    assert (result[40:90, 50:110] == first[40:90, 50:110]).all()


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, "a", (50, 60), (10, 10, 20, 20))
    with pytest.raises(UsageError, match="speed"):
        engine.inpaint(tmp_path / "a.png", speed=9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sampler": "euler"}, "unknown --sampler 'euler'"),
        ({"start": "noise"}, "unknown --start 'noise'"),
        ({"steps": 0}, "--steps must be 1 or more"),
    ],
)
def test_values_that_nothing_would_use_are_refused_too(
    tmp_path: Path, weights: Path, setting: dict[str, Any], message: str
) -> None:
    save(tmp_path, "a", (50, 60), (10, 10, 20, 20))
    with pytest.raises(UsageError, match=message):
        engine.inpaint(tmp_path / "a.png", weights=weights, tk=0, **setting)


def test_a_soft_result_of_an_unknown_tool_is_sharpened_before_it_is_refined(
    tmp_path: Path, weights: Path
) -> None:
    refiner = with_defaults(weights, {"*": QUICK | {"texture_gain": 1.0, "sharpen": True}})
    path = tmp_path / "sharpening.safetensors"
    write_safetensors(path, refiner.unet.state_dict(), refiner.config.to_json())
    rng = np.random.default_rng(0)
    detailed = cv2.GaussianBlur(rng.normal(0, 60, (150, 170, 3)), (0, 0), 1.2) + 128
    soft = cv2.GaussianBlur(detailed, (0, 0), 1.5)
    for name, picture in (("a", detailed), ("a_out", soft)):
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    hole = np.zeros((150, 170), np.uint8)
    hole[40:110, 50:120] = 255
    Image.fromarray(hole).save(tmp_path / "a_mask.png")
    options = {"weights": path, "device": "cpu", "if_exists": "overwrite"}
    (entry,) = engine.refine(tmp_path / "a.png", tmp_path / "a_out.png", **options)
    assert entry["sharpened"] == [0]
    (entry,) = engine.refine(tmp_path / "a.png", tmp_path / "a_out.png", tk=30, **options)
    assert entry["sharpened"] == []
