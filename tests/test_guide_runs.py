"""Guides in whole runs: weights, options, resume, failures, seeds, settings files, commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_weights, photo, save_pair
from guide_makers import PYTHON, Crooked, install, program, save_script, write_side_file
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from d2s_cli import engine
from d2s_cli.cli import config
from d2s_cli.cli.app import app
from d2s_cli.cli.options import guide_options
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides import on_photo, registry
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.neural import NeuralGuide
from d2s_cli.manifest import MANIFEST_NAME, read_manifest

#: a guide with weights, as d2s's own are written
MODULE = """
import torch
from d2s_cli.guides.network import NetworkGuide

class Tint(NetworkGuide):
    side = 128
    def __init__(self, shade, device):
        super().__init__(device)
        self.shade = shade
    def predict(self, image, hole, seed):
        return torch.full_like(image, self.shade)

def load(paths, device, lighter=0.0):
    return Tint(float(paths[0].read_text()) + lighter, device)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def tint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide "tint" and its weights file."""
    (tmp_path / "tint_for_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tint_for_tests", raising=False)
    monkeypatch.setitem(registry.FROM_WEIGHTS, "tint", "tint_for_tests")
    (tmp_path / "tint.pt").write_text("0.5")
    return tmp_path / "tint.pt"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for i in range(2):
        save_pair(tmp_path / "scans", f"p{i}", i)
    return tmp_path / "scans"


def d2s(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(scans: Path, weights: Path, *more: object) -> tuple[dict[str, int], Result]:
    result = d2s("inpaint", scans, "-w", weights, "-d", "cpu", "--tk", 0, "--json", *more)
    assert result.stdout, result.exception
    return {k: n for k, n in json.loads(result.stdout)["counts"].items() if n}, result


# weights and options


def test_other_guide_weights_or_options_mean_other_results(
    scans: Path, weights: Path, tint: Path
) -> None:
    words = ("-g", "tint", "--guide-weights", tint)
    counts, first = run(scans, weights, *words)
    assert counts == {"done": 2}
    hole = np.asarray(Image.open(scans.parent / "scans_d2s" / "p0.png"))[30:50, 40:70]
    assert (hole == 191).all()  # 0.5 of [-1, 1]
    (note,) = (line for line in first.stderr.splitlines() if line.startswith("note: guide"))
    assert note == "note: guide tint: works at 128 x 128: larger windows are filled at that size"
    assert run(scans, weights, *words)[0] == {"skipped": 2}
    moved = tint.rename(tint.with_name("moved.pt"))
    assert run(scans, weights, "-g", "tint", "--guide-weights", moved)[0] == {"skipped": 2}
    moved.write_text("-0.5")
    assert run(scans, weights, "-g", "tint", "--guide-weights", moved)[0] == {"done": 2}
    more = ("-g", "tint", "--guide-weights", moved, "--guide-option", "lighter=0.25")
    assert run(scans, weights, *more)[0] == {"done": 2}
    entry = list(read_manifest(scans.parent / "scans_d2s" / MANIFEST_NAME))[-1]
    assert entry["settings"]["guide_options"] == {"lighter": 0.25}
    assert [len(record["sha256"]) for record in entry["guide"]["weights"]] == [64]


def test_a_folder_of_guide_weights(tmp_path: Path, tint: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    tint.rename(folder / "a.pt")
    guide = registry.load_guide("tint", folder)
    assert guide.files == (folder / "a.pt",)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (None, {}),
        (["steps=5", "eta=0.85", "fast=true", "slow=False"], {"fast": True, "slow": False}),
        (["mode=const", "note=a=b", "empty="], {"mode": "const", "note": "a=b", "empty": ""}),
        (["time-out=1e3"], {"time_out": 1000.0}),
    ],
)
def test_options_are_numbers_truths_or_text(
    texts: list[str] | None, expected: dict[str, Any]
) -> None:
    options = guide_options(texts)
    assert expected.items() <= options.items()
    if texts and "steps=5" in texts:
        assert (options["steps"], type(options["steps"]), options["eta"]) == (5, int, 0.85)


@pytest.mark.parametrize("texts", [["steps"], ["=5"], ["a b=1"], ["a=1", "a=2"]])
def test_options_that_are_none_are_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--guide-option"):
        guide_options(texts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-g", "none", "--guide-option", "a=1"), "--guide none has no"),
        (("-g", "telea", "--guide-option", "a=1"), "takes no settings, but got: a"),
        (("-g", "telea", "--guide-weights", "x"), "takes no settings, but got: weights"),
        (("-g", "tint", "--guide-option", "device=1"), "device is no option"),
        (("-g", "tint", "--guide-weights", "x", "--guide-option", "a=1"), "it has: lighter"),
        (("-g", "nonsense"), "onnx:..., torchscript:..., cmd:..."),
    ],
)
def test_settings_that_the_guide_does_not_have_are_refused(
    scans: Path, weights: Path, tint: Path, words: tuple[str, ...], said: str
) -> None:
    result = d2s("inpaint", scans, "-w", weights, *words)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)


# failures


def test_a_picture_that_the_guide_fails_on_does_not_end_the_run(scans: Path, weights: Path) -> None:
    (scans / "p1.png").unlink()
    (scans / "p1_mask.png").unlink()
    for name, size in (("p1", (60, 80)), ("p2", (90, 120))):
        Image.fromarray(photo(*size)).save(scans / f"{name}.png")
        Image.fromarray(np.eye(*size, dtype=np.uint8) * 255).save(scans / f"{name}_mask.png")
    code = (
        "import shutil, struct\n"
        "height = struct.unpack('>I', open(image, 'rb').read()[20:24])[0]\n"
        "sys.exit('too narrow') if height == 60 else shutil.copy(image, output)\n"
    )
    words = ("-g", f'cmd:{PYTHON} "{program(scans.parent, code)}" {{image}} {{mask}} {{output}}')
    counts, result = run(scans, weights, *words)
    assert (counts, result.exit_code) == ({"done": 2, "failed": 1}, 3)
    (failed,) = (r for r in json.loads(result.stdout)["results"] if r["status"] == "failed")
    assert failed["input"]["path"].endswith("p1.png")
    assert failed["error"]["code"] == 5
    assert "exit code 1: too narrow" in result.stderr
    assert run(scans / "p1.png", weights, *words)[1].exit_code == 5


def test_levels_taken_for_another_range_fail_each_picture(
    scans: Path, weights: Path, tmp_path: Path
) -> None:
    write_side_file(save_script(tmp_path / "m.pt", ["image", "mask"], out=255.0))
    words = ("-g", f"torchscript:{tmp_path / 'm.pt'}")
    assert run(scans, weights, *words)[0] == {"failed": 2}
    counts, result = run(scans / "p0.png", weights, *words)
    assert (counts, result.exit_code) == ({"failed": 1}, 5)
    assert "m.pt gave numbers far out of range" in result.stderr
    assert 'says output_range = "0..1"' in result.stderr


def test_a_program_that_is_not_there_ends_the_run_before_it_begins(
    scans: Path, weights: Path
) -> None:
    result = d2s("inpaint", scans, "-w", weights, "-g", "cmd:nowhere {image} {mask} {output}")
    assert isinstance(result.exception, WeightsError)
    assert not (scans.parent / "scans_d2s").exists()


# what a guide is shown


class Watching(Guide):
    name = "watching"

    def __init__(self, side: int = 0) -> None:
        self.side = side
        self.seen: list[tuple[tuple[int, ...], int]] = []

    def fill(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        self.seen.append((tuple(image.shape[-2:]), seed))
        return image


def test_each_hole_has_a_seed_of_its_own(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(photo(100, 400)).save(tmp_path / "a.png")
    hole = np.zeros((100, 400), np.uint8)
    hole[40:50, 20:30] = hole[40:50, 200:210] = hole[40:50, 380:390] = 255
    Image.fromarray(hole).save(tmp_path / "a_mask.png")
    options = {"weights": weights, "tk": 0, "if_exists": "overwrite", "device": "cpu"}
    seen = []
    for seed in (3, 3, 4):
        guide = Watching()
        monkeypatch.setattr(engine, "load_guide", lambda *_, guide=guide, **__: guide)
        engine.inpaint(tmp_path / "a.png", seed=seed, **options)
        seen.append([seed for _, seed in guide.seen])
    assert seen[0][0] == 3  # what load_guide(...)(image, hole, seed=3) has
    assert len(set(seen[0])) == 3
    assert seen[0] == seen[1]
    assert not set(seen[0]) & set(seen[2])


@pytest.mark.parametrize(
    ("side", "shown"), [(0, (20, 30)), (64, (64, 64)), (256, (100, 256)), (16, (20, 30))]
)
def test_a_guide_of_one_size_sees_surroundings_rather_than_mirrored_pixels(
    side: int, shown: tuple[int, int]
) -> None:
    picture, hole = photo(100, 300), np.zeros((100, 300), bool)
    hole[5:10, 270:280] = True
    guide = Watching(side)
    window = np.s_[0:20, 260:290]
    filled = on_photo.fill_window(guide, picture, hole, window, seed=0)
    assert guide.seen == [(shown, 0)]
    assert (filled[~hole[window]] == picture[window][~hole[window]]).all()


# settings files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "user_file", lambda: tmp_path / "user.toml")
    return tmp_path


@pytest.mark.parametrize("listed", [True, False])
def test_settings_files_name_guide_weights_and_options(
    here: Path, scans: Path, weights: Path, tint: Path, listed: bool
) -> None:
    start, end = ("[", "]") if listed else ("", "")
    (here / "d2s.toml").write_text(
        f'guide = "tint"\nguide-weights = {start}"tint.pt"{end}\n'
        f'[inpaint]\nguide-option = {start}"lighter=0.5"{end}\n'
    )
    assert run(scans, weights)[0] == {"done": 2}
    entry = next(iter(read_manifest(scans.parent / "scans_d2s" / MANIFEST_NAME)))
    assert entry["guide"]["name"] == "tint"
    assert entry["settings"]["guide_options"] == {"lighter": 0.5}


@pytest.mark.parametrize("guide", ["cmd:rm {image} {mask} {output}", "torchscript:model.pt"])
@pytest.mark.parametrize("place", ["", "[inpaint]\n"])
def test_entering_a_folder_runs_no_code_from_it(here: Path, guide: str, place: str) -> None:
    text = f'{place}guide = "{guide}"\n'
    (here / "d2s.toml").write_text(text)
    result = d2s("inpaint", "a.png")
    assert isinstance(result.exception, UsageError)
    assert "asks to run a program" in str(result.exception)
    for words in (("--config", "d2s.toml"), ("--config", "none")):
        assert "asks to run" not in str(d2s(*words, "inpaint", "a.png").exception)
    (here / "d2s.toml").rename(here / "user.toml")
    assert "asks to run" not in str(d2s("inpaint", "a.png").exception)


# d2s guides


def test_guides_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = dict.fromkeys(("absent", "telea"), "no_such_module_here:Wall")
    install(tmp_path, "walls", entries)
    monkeypatch.syspath_prepend(tmp_path)
    result = d2s("guides", "list", "--json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)["guides"]}
    assert rows["telea"]["ready"] is True
    assert rows["absent"]["ready"] is False
    assert "commercial" in rows["edgeconnect"]["licence"]
    assert rows["torchscript:FILE"]["kind"].endswith("runs code in it")
    table = d2s("guides", "list")
    assert table.stdout.splitlines()[0].split()[:3] == ["NAME", "KIND", "HERE"]
    assert "absent: guide absent of walls 1.2 does not load" in table.stderr
    assert "walls 1.2 is skipped: d2s has a guide telea itself" in table.stderr


def test_guides_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = d2s("guides", "test", "telea", "-d", "cpu", "--json")
    assert good.exit_code == 0
    document = json.loads(good.stdout)
    assert document["passed"] is True
    assert document["seconds"]["later"] > 0
    monkeypatch.setitem(registry.BUILT_IN, "crooked", lambda: Crooked("spills"))
    bad = d2s("guides", "test", "crooked")
    assert bad.exit_code == 7
    assert "failed   sizes: 64x64: changed 1 known pixels" in bad.stdout
    assert isinstance(d2s("guides", "test", "onnx:nowhere").exception, WeightsError)


def test_guides_test_says_that_a_file_runs_code(tmp_path: Path) -> None:
    path = save_script(tmp_path / "m.pt", ["image", "mask"])
    write_side_file(path)
    result = d2s("guides", "test", f"torchscript:{path}", "-d", "cpu")
    assert result.exit_code == 0, result.stdout
    assert "the file holds code, which runs" in result.stderr
    assert "MB at the peak" in result.stdout


# correction


def corrected(scans: Path, out: str, *words: object) -> tuple[list[dict[str, Any]], bytes]:
    result = d2s(
        *("inpaint", scans, "-g", "telea", "-d", "cpu", "--json", "-o", scans.parent / out, *words)
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["results"], (scans.parent / out / "p0.png").read_bytes()


def test_a_smooth_result_is_corrected_unless_the_user_says_otherwise(scans: Path) -> None:
    entries, default = corrected(scans, "default")
    assert all(e["changed_outside"] == 0 for e in entries)
    names = [Path(e["corrector"][0]["path"]).name for e in entries]
    assert names == ["neural.safetensors"] * 2
    entries, plain = corrected(scans, "plain", "--no-correct")
    assert not any("corrector" in e for e in entries)
    assert plain != default
    # T_k is for refining the guide's result as it is
    entries, _ = corrected(scans, "tk", "--tk", 30)
    assert not any("corrector" in e for e in entries)
    _, corrected_only = corrected(scans, "alone", "--tk", 0, "--correct")
    _, guide_only = corrected(scans, "guide", "--tk", 0)
    assert corrected_only != guide_only


def test_a_correction_that_fails_fails_its_picture_alone(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = NeuralGuide.fill
    calls = []

    def fail_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("made up")
        return fill(*arguments)

    monkeypatch.setattr(NeuralGuide, "fill", fail_once)
    entries = engine.inpaint(scans, output=scans.parent / "out", guide="telea", device="cpu")
    assert [e["status"] for e in entries] == ["failed", "done"]
    assert "guide neural ran out of memory" in entries[0]["error"]["message"]


def test_a_run_with_the_other_choice_of_correction_is_redone(scans: Path) -> None:
    corrected(scans, "out")
    entries, _ = corrected(scans, "out")
    assert {e["status"] for e in entries} == {"skipped"}
    entries, _ = corrected(scans, "out", "--no-correct")
    assert {e["status"] for e in entries} == {"done"}
