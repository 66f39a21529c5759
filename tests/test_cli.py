"""The command line as a user types it, with a small refiner in place of the bundled one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from d2s_cli.cli.app import app
from d2s_cli.diffusion.refiner import RefinerConfig
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import D2SError
from d2s_cli.manifest import MANIFEST_NAME
from d2s_cli.weights.reading import write_safetensors

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny refiner whose defaults take few steps."""
    torch.manual_seed(0)
    unet = UNetConfig(inner_channels=32, channel_mults=(1, 2), res_blocks=1, unshuffle=2)
    quick = {"tk": 50, "steps": 2, "sampler": "dpmpp-sde", "inject": False}
    config = RefinerConfig(
        unet=unet, prediction="v", alpha_bar_min=0.4, tile=128, defaults={"*": quick}
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_safetensors(path, UNet(unet).state_dict(), config.to_json())
    return path


def photo(path: Path, size: tuple[int, int] = (150, 110), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (150, 110), box: tuple[int, ...] = (40, 30, 70, 60)):
    picture = np.zeros((size[1], size[0]), np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def d2s(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_one_photo_with_a_mask(tmp_path: Path, weights: Path) -> None:
    image, hole = photo(tmp_path / "photo.png"), mask(tmp_path / "m.png")
    result = d2s("inpaint", image, "--mask", hole, "-g", "telea", "-w", weights, "-d", "cpu")
    assert result.exit_code == 0, result.stderr
    changed = (pixels(tmp_path / "photo_d2s.png") != pixels(image)).any(axis=2)
    assert changed[30:60, 40:70].mean() > 0.9
    assert changed.sum() == changed[30:60, 40:70].sum()
    assert "0 pixels changed outside holes" in result.stderr
    assert "device: CPU" in result.stderr
    assert result.stdout == ""


def test_a_folder_goes_on_after_bad_files_and_says_so(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "scans"
    for name in ("a", "b", "c", "d"):
        photo(folder / f"{name}.png")
    mask(folder / "a_mask.png")
    mask(folder / "b_mask.png", size=(99, 110))  # wrong size
    mask(folder / "c_mask.png")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:300])  # truncated; d: no mask
    result = d2s("inpaint", folder, "-g", "ns", "-w", weights, "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["counts"] == {"done": 1, "copied": 0, "skipped": 0, "failed": 3}
    messages = " ".join(r["error"]["message"] for r in report["results"] if "error" in r)
    assert "differ in size" in messages
    assert "cannot read" in messages
    assert "no mask for" in messages
    assert sorted(p.name for p in (tmp_path / "scans_d2s").iterdir()) == ["a.png", MANIFEST_NAME]


def test_running_a_folder_again_skips_what_is_there(tmp_path: Path, weights: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    mask(tmp_path / "in" / "a_mask.png")
    command = ("inpaint", tmp_path / "in", "-g", "telea", "-w", weights, "--tk", "0")
    assert d2s(*command).exit_code == 0
    before = (tmp_path / "in_d2s" / "a.png").stat().st_mtime_ns
    again = d2s(*command)
    assert again.exit_code == 0
    assert "1 skipped" in again.stderr
    assert (tmp_path / "in_d2s" / "a.png").stat().st_mtime_ns == before
    assert d2s(*command, "--force").exit_code == 0
    assert (tmp_path / "in_d2s" / "a.png").stat().st_mtime_ns != before


def test_refine_finds_the_results_of_another_tool(tmp_path: Path, weights: Path) -> None:
    folder, results = tmp_path / "folder", tmp_path / "lama_out"
    for seed, name in enumerate(("a", "b", "c")):
        photo(folder / f"{name}.png", seed=seed)
        mask(folder / f"{name}_mask001.png")
    photo(results / "a_mask001.png", seed=7)  # LaMa's names
    photo(results / "b_out.jpg", seed=8)
    photo(results / "c.webp", size=(152, 112), seed=9)  # padded to a multiple of 8
    result = d2s("refine", folder, "--guide-outputs", results, "--tk", "0", "-w", weights)
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "folder_d2s"
    for name, guide in (("a", "a_mask001.png"), ("b", "b_out.jpg"), ("c", "c.webp")):
        restored, original = pixels(out / f"{name}.png"), pixels(folder / f"{name}.png")
        expected = pixels(results / guide)[:110, :150]
        assert (restored[30:60, 40:70] == expected[30:60, 40:70]).all()
        restored[30:60, 40:70] = original[30:60, 40:70]
        assert (restored == original).all()


def test_samples_differ_and_seeds_repeat(tmp_path: Path, weights: Path) -> None:
    image, hole = photo(tmp_path / "photo.png"), mask(tmp_path / "m.png")
    base = ("inpaint", image, "-m", hole, "-g", "telea", "-w", weights, "--precision", "fp32")
    assert d2s(*base, "--samples", 2, "-o", tmp_path / "x.png").exit_code == 0
    assert d2s(*base, "-o", tmp_path / "y.png").exit_code == 0
    first, second = pixels(tmp_path / "x.s1.png"), pixels(tmp_path / "x.s2.png")
    assert (first != second).any()
    assert np.abs(first - pixels(tmp_path / "y.png")).max() <= 1


def test_a_preset_is_recorded_with_what_it_means(tmp_path: Path, weights: Path) -> None:
    image, hole = photo(tmp_path / "photo.png"), mask(tmp_path / "m.png")
    base = ("inpaint", image, "-m", hole, "-g", "telea", "-w", weights, "--json", "-f")
    result = d2s(*base, "--preset", "paper", "--tk", 4)
    assert result.exit_code == 0, result.stderr
    (entry,) = json.loads(result.stdout)["results"]
    assert (entry["preset"], entry["tk"], entry["steps"]) == ("paper", [4], 4)
    assert (entry["sampler"], entry["inject"]) == ("ddpm", True)
    assert "corrector" not in entry
    made = (tmp_path / "photo_d2s.png").read_bytes()
    options = ("--tk", 4, "--steps", 4, "--sampler", "ddpm", "--inject")
    assert d2s(*base, *options).exit_code == 0
    assert (tmp_path / "photo_d2s.png").read_bytes() == made


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--mask", "nowhere.png"], 4, "no mask at"),
        (["--mask", "m.png", "--device", "cuda:77"], 6, "is not there"),
        (["--mask", "m.png", "--weights", "nothing"], 5, "no weights named"),
        (["--mask", "m.png", "--guide", "nobody"], 2, "unknown guide"),
        (["--mask", "m.png", "--tk", "900"], 2, "know noise up to step"),
        (["--mask", "m.png", "--sampler", "best"], 2, "unknown --sampler"),
        (["--mask", "m.png", "--start", "best"], 2, "unknown --start"),
        (["--mask", "m.png", "--preset", "best"], 2, "unknown preset"),
        (["--mask", "m.png", "--polarity", "green"], 2, "unknown --polarity"),
        (["--mask", "full.png"], 4, "whole picture"),
        (["--mask", "m.png", "-o", "photo.png", "-f"], 4, "overwrite an input"),
        (["--mask", "m.png", "-o", "out.xyz"], 4, "picture format"),
        (["--mask", "m.png", "-o", "out.png", "--format", "jpeg"], 2, "different formats"),
        (["--mask", "m.png", "--format", "gif"], 2, "unknown --format"),
        (["--mask", "m.png", "--metadata", "some"], 2, "unknown --metadata"),
        ([], 4, "no mask for"),
    ],
)
def test_errors_have_their_exit_code_and_say_what_to_do(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png")
    mask(tmp_path / "m.png")
    mask(tmp_path / "full.png", box=(0, 0, 150, 110))
    given = [] if "--weights" in words else ["--weights", str(weights)]
    result = d2s("inpaint", "photo.png", "-g", "telea", *given, *words)
    if result.exception and isinstance(result.exception, D2SError):
        assert result.exception.exit_code == code
        assert text in str(result.exception)
        assert result.exception.hint
    else:
        assert result.exit_code == code
        assert text in result.stderr
    assert not (tmp_path / "photo_d2s.png").exists()


def test_the_rotated_photo_keeps_its_flag_and_takes_an_upright_mask(
    tmp_path: Path, weights: Path
) -> None:
    upright = Image.open(photo(tmp_path / "upright.png"))
    stored = upright.transpose(Image.Transpose.ROTATE_90)  # what orientation 6 undoes
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "photo.png", exif=exif)
    command = ("inpaint", tmp_path / "photo.png", "-g", "telea", "-w", weights, "--tk", 0)
    assert d2s(*command, "-m", mask(tmp_path / "m.png"), "-f").exit_code == 0
    again = Image.open(tmp_path / "photo_d2s.png")
    assert again.getexif()[0x0112] == 6
    turned = np.asarray(again.transpose(Image.Transpose.ROTATE_270)).astype(int)
    changed = (turned != np.asarray(upright)).any(axis=2)
    assert changed[30:60, 40:70].any()
    assert changed.sum() == changed[30:60, 40:70].sum()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_every_format_comes_back_in_itself(tmp_path: Path, weights: Path, suffix: str) -> None:
    image, hole = photo(tmp_path / f"photo.{suffix}"), mask(tmp_path / "m.png")
    result = d2s("inpaint", image, "-m", hole, "-g", "telea", "-w", weights, "--tk", 0)
    assert result.exit_code == 0, result.stderr
    before, after = pixels(image), pixels(tmp_path / f"photo_d2s.{suffix}")
    before[30:60, 40:70] = after[30:60, 40:70] = 0
    difference = np.abs(before - after).max()
    assert difference == 0 if suffix != "jpg" else difference < 40


def test_sixteen_bits_stay_sixteen_bits_in_the_hole_too(tmp_path: Path, weights: Path) -> None:
    import cv2

    rng = np.random.default_rng(0)
    deep = cv2.resize(rng.integers(0, 65536, (8, 10, 3)).astype(np.float32), (150, 110))
    deep = deep.clip(0, 65535).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    hole = mask(tmp_path / "m.png")
    result = d2s("inpaint", tmp_path / "deep.png", "-m", hole, "-g", "telea", "-w", weights)
    assert result.exit_code == 0, result.stderr
    after = cv2.imread(str(tmp_path / "deep_d2s.png"), cv2.IMREAD_UNCHANGED)
    assert after.dtype == np.uint16
    assert len(np.unique(after[30:60, 40:70] % 257)) > 50
    after[30:60, 40:70] = deep[30:60, 40:70]
    assert (after == deep).all()


@pytest.mark.parametrize("guide", ["telea", "patchmatch"])
@pytest.mark.parametrize("mode", ["L", "LA", "CMYK", "P"])
def test_turned_pictures_of_every_mode_are_restored(
    tmp_path: Path, weights: Path, mode: str, guide: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(photo(tmp_path / "first.png")).transpose(Image.Transpose.ROTATE_90)
    picture.convert(mode).save(tmp_path / "photo.tif", exif=exif)
    hole = mask(tmp_path / "m.png")
    image = tmp_path / "photo.tif"
    result = d2s("inpaint", image, "-m", hole, "-g", guide, "-w", weights, "--json")
    assert result.exit_code == 0, result.stderr
    (entry,) = json.loads(result.stdout)["results"]
    change = [entry[f"changed_outside{name}"] for name in ("", "_max", "_mean")]
    assert change == [0, 0, 0]
    notes = {"CMYK": "no CMYK profile", "P": "palette became RGB"}
    assert [w[: len(notes.get(mode, ""))] for w in entry["warnings"]] == [
        notes[m] for m in notes if m == mode
    ]
    assert (f"note: {image}: " in result.stderr) == (mode in notes)


def test_jpeg_says_how_far_known_pixels_moved(tmp_path: Path, weights: Path) -> None:
    image, hole = photo(tmp_path / "photo.jpg"), mask(tmp_path / "m.png")
    result = d2s("inpaint", image, "-m", hole, "-g", "telea", "-w", weights, "--json")
    (entry,) = json.loads(result.stdout)["results"]
    assert not entry["lossless"]
    assert 0 < entry["changed_outside_mean"] < 1 <= entry["changed_outside_max"]
    assert "levels, 0." in result.stderr
    assert "on average" in result.stderr


def test_format_and_metadata_can_be_chosen(tmp_path: Path, weights: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x013B] = "maker", "the owner"
    Image.open(photo(tmp_path / "in" / "a.png")).save(tmp_path / "in" / "a.jpg", exif=exif)
    (tmp_path / "in" / "a.png").unlink()
    mask(tmp_path / "in" / "a_mask.png")
    command = ("inpaint", tmp_path / "in", "-g", "telea", "-w", weights, "--tk", 0)
    result = d2s(*command, "--format", "tiff", "--metadata", "private")
    assert result.exit_code == 0, result.stderr
    assert "0 pixels changed outside holes" in result.stderr
    with Image.open(tmp_path / "in_d2s" / "a.tif") as file:
        assert file.getexif()[0x010F] == "maker"
        assert 0x013B not in file.getexif()
    assert "1 restored" in d2s(*command, "--format", "tiff").stderr  # other metadata
    assert "1 skipped" in d2s(*command, "--format", "tiff").stderr


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_mask_without_hole_copies_the_file(tmp_path: Path, weights: Path, suffix: str) -> None:
    image = photo(tmp_path / f"photo.{suffix}")
    empty = mask(tmp_path / "m.png", box=(0, 0, 0, 0))
    assert d2s("inpaint", image, "-m", empty, "-w", weights).exit_code == 0
    assert (tmp_path / f"photo_d2s.{suffix}").read_bytes() == image.read_bytes()


def test_a_mask_without_hole_copies_the_picture(tmp_path: Path, weights: Path) -> None:
    image = photo(tmp_path / "photo.png")
    empty = mask(tmp_path / "m.png", box=(0, 0, 0, 0))
    result = d2s("inpaint", image, "-m", empty, "-w", weights)
    assert result.exit_code == 0
    assert "marks no hole" in result.stderr
    assert (pixels(tmp_path / "photo_d2s.png") == pixels(image)).all()


def test_the_bundled_weights_restore_the_example(tmp_path: Path) -> None:
    examples = REPOSITORY / "examples"
    out = tmp_path / "restored.png"
    result = d2s("inpaint", examples / "coffee.png", "-m", examples / "coffee_mask.png", "-o", out)
    assert result.exit_code == 0, result.stderr
    hole = pixels(examples / "coffee_mask.png")[..., 0] > 127
    before, after = pixels(examples / "coffee.png"), pixels(out)
    assert (before[~hole] == after[~hole]).all()
