"""Palette as the guide, from published checkpoints and from the refiner's own weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, filled, photo
from guide_checks import changed_pixels, check_guide, run_inpaint, scene
from PIL import Image
from test_golden import arrays, relative_error, replay

import d2s_cli as d2s
from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import RefinerConfig, SeededNoise
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides import palette
from d2s_cli.guides.palette import PaletteGuide
from d2s_cli.weights.reading import write_safetensors

OTHERS = [TINY, UNetConfig(32, (1, 2, 2), 1, attention_levels=(1,)), replace(TINY, res_blocks=2)]


def published(path: Path, config: UNetConfig = TINY) -> Path:
    """A checkpoint as the open implementation's training saves it."""
    state = {f"denoise_fn.{k}": v for k, v in filled(UNet(config)).state_dict().items()}
    torch.save(state | {"gammas": torch.linspace(1, 0, 2000)}, path)
    return path


def ours(path: Path, config: RefinerConfig) -> Path:
    write_safetensors(path, filled(UNet(config.unet)).state_dict(), config.to_json())
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> PaletteGuide:
    return d2s.load_guide("palette", published(tmp_path / "200_Network.pth"), table_steps=4)


def test_a_published_checkpoint_samples_as_palette_does(published_checkpoint: Path) -> None:
    golden = arrays("palette.npz")
    guide = d2s.load_guide("palette", published_checkpoint, table_steps=10)
    draws = [golden["smp_epsm"], golden["smp_start"], *golden["smp_noises"]]
    noise = replay(*(draw[:1] for draw in draws))
    out = guide.sample(golden["smp_x0"][:1], golden["smp_mask"][:1], noise=noise)
    assert relative_error(out, golden["smp_out"][:1]) < 1e-4


@pytest.mark.parametrize("config", OTHERS)
def test_networks_of_other_shapes(config: UNetConfig, tmp_path: Path) -> None:
    path = published(tmp_path / "net.pth", config)
    guide = d2s.load_guide("palette", path, table_steps=4)
    assert guide.refiner.config.unet == config
    check_guide(guide, (16, 16), (13, 22))


def test_windows_larger_than_the_networks_are_filled_at_its_size(tiny: PaletteGuide) -> None:
    asked = []
    refine = tiny.refiner.refine
    tiny.refiner.refine = lambda image, *a, **k: asked.append(image.shape) or refine(image, *a, **k)
    tiny.largest = 24
    image, hole = scene(37, 61)
    out = tiny(image, hole)
    # 61 becomes 24, 37 in proportion 15, mirrored up to an even number
    assert asked == [(2, 3, 16, 24)]
    assert torch.equal(out[(hole == 0).expand_as(out)], image[(hole == 0).expand_as(out)])


def test_one_file_guides_and_refines(tmp_path: Path) -> None:
    path = ours(tmp_path / "both.safetensors", RefinerConfig(unet=TINY))
    guide, refiner = d2s.load_guide("palette", path, table_steps=4), load_refiner(path)
    image, hole = scene(16, 16)
    first = guide(image, hole)
    second = refiner.refine(image, hole, first, tk=4, schedule=NoiseTable(8))
    assert bool(second.isfinite().all())
    assert not torch.equal(first, second)


def test_the_command_line_takes_the_refiner_s_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(palette.load, "__defaults__", (4, *palette.load.__defaults__[1:]))
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(tmp_path / "nothing"))
    image, hole = (tmp_path / f"{name}.png" for name in ("photo", "hole"))
    Image.fromarray(photo(24, 24)).save(image)
    Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), 8)).save(hole)
    weights = published(tmp_path / "200_Network.pth")
    entry = d2s.inpaint(image, hole, guide="palette", weights=str(weights), tk=4, steps=2)[0]
    assert (entry["status"], entry["guide"]["name"]) == ("done", "palette")
    late = ours(tmp_path / "late.safetensors", RefinerConfig(unet=TINY, alpha_bar_min=0.9))
    with pytest.raises(WeightsError, match="cannot guide"):
        d2s.inpaint(image, hole, guide="palette", weights=str(late), if_exists="overwrite")


def test_the_paper_s_table_unless_told_otherwise(tmp_path: Path) -> None:
    path = published(tmp_path / "net.pth")
    assert d2s.load_guide("palette", path).table == NoiseTable(500, 1e-4, 0.09)
    guide = d2s.load_guide("palette", path, table_steps=1000, steps=2, sampler="ddim")
    assert guide.table == NoiseTable(1000, 1e-4, 0.09)
    check_guide(guide, (8, 8))


def test_seeds_differ_and_repeat(tiny: PaletteGuide) -> None:
    image, hole = scene(16, 16)
    assert torch.equal(tiny(image, hole, seed=1), tiny(image, hole, seed=1))
    assert not torch.equal(tiny(image, hole, seed=1), tiny(image, hole, seed=2))


def test_the_guide_s_noise_is_not_what_refines_it(tiny: PaletteGuide) -> None:
    drawn = []

    class Watched(SeededNoise):
        def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
            drawn.append(super().__call__(shape))
            return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2s_cli.diffusion.refiner.SeededNoise", Watched)
        tiny(*scene(8, 8), seed=5)
    refining = SeededNoise([(5, 0, 0)], 1)((1, 3, 8, 8))
    assert all(not torch.equal(noise[:1], refining) for noise in drawn)


def test_weights_that_never_saw_pure_noise_cannot_guide(tmp_path: Path) -> None:
    path = ours(tmp_path / "late.safetensors", RefinerConfig(unet=TINY, alpha_bar_min=0.5))
    with pytest.raises(WeightsError, match=r"late\.safetensors cannot guide"):
        d2s.load_guide("palette", path)


@pytest.mark.parametrize(
    "options", [{"sampler": "euler"}, {"steps": 501}, {"steps": 0}, {"table_steps": 0}]
)
def test_settings_that_make_no_sense(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        d2s.load_guide("palette", published(tmp_path / "net.pth"), **options)


def test_a_wrong_file_or_several_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"input_blocks\.0\.0\.weight"):
        d2s.load_guide("palette", tmp_path / "a.pth")
    published(tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"not 2: a\.pth, b\.pth"):
        d2s.load_guide("palette", tmp_path)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palette.load, "__defaults__", (4, *palette.load.__defaults__[1:]))
    result = run_inpaint("palette", [published(tmp_path / "200_Network.pth")], tmp_path)
    assert result.exit_code == 0, result.output
    inside, outside = changed_pixels(tmp_path)
    assert inside > 200
    assert outside == 0
