"""--mask-name, --fit-mask, --null, and doctor's extras, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import d2s, mask, photo, pixels, weights

from d2s_cli import doctor
from d2s_cli.errors import D2SError, UsageError

__all__ = ["weights"]  # a fixture

QUICK = ("-g", "telea", "--tk", 0, "--precision", "fp32")


def pairs(*words: object) -> dict[str, str]:
    """Pictures and masks of a plan, by name."""
    result = d2s("inpaint", *words, "--dry-run", "--json")
    assert not isinstance(result.exception, D2SError), result.exception
    plan = json.loads(result.stdout)["plan"]
    return {Path(row["input"]).name: Path(row["mask"]).name for row in plan}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{stem}_hole", "a_hole.png"),
        ("{stem}_hole*", "a_hole_by_me.png"),
        ("hole-{stem}", "hole-a.bmp"),
        ("holes/{stem}", "holes/a.png"),
        ("{stem}.hole.png", "a.hole.png"),
        ("*{stem}_h", "some a_h.png"),
    ],
)
def test_masks_may_be_named_in_any_way(tmp_path: Path, pattern: str, name: str) -> None:
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "b_mask.png")  # a picture, since masks are named otherwise here
    mask(tmp_path / "in" / name)
    words = (tmp_path / "in", "-r", "--mask-name", pattern)
    assert pairs(*words) == {"a.png": Path(name).name}
    assert d2s("mask", "check", tmp_path / "in" / "a.png", *words[2:]).exit_code == 0
    assert d2s("mask", "preview", tmp_path / "in" / "a.png", *words[2:]).exit_code == 0


def test_names_hold_in_a_folder_of_masks_and_can_be_several(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "b.png")
    mask(tmp_path / "holes" / "a-x.png")
    mask(tmp_path / "holes" / "b-y.png")
    mask(tmp_path / "holes" / "b.png")  # of the usual names, which do not count now
    words = (tmp_path / "in", "-m", tmp_path / "holes", "--mask-name", "{stem}-x")
    assert pairs(*words) == {"a.png": "a-x.png"}
    assert pairs(*words, "--mask-name", "{stem}-y") == {"a.png": "a-x.png", "b.png": "b-y.png"}


@pytest.mark.parametrize("pattern", ["hole*", "{stem}{stem}", "{name}"])
def test_a_mask_name_must_say_where_the_stem_stands(tmp_path: Path, pattern: str) -> None:
    error = d2s("inpaint", photo(tmp_path / "a.png"), "--mask-name", pattern).exception
    assert isinstance(error, UsageError)
    assert "{stem}" in error.hint


def changed(before: Path, after: Path) -> np.ndarray:
    return np.asarray((pixels(before) != pixels(after)).any(axis=2))


def test_a_mask_of_another_size_can_be_stretched(tmp_path: Path, weights: Path) -> None:
    image = photo(tmp_path / "a.png")
    half = mask(tmp_path / "m.png", size=(75, 55), box=(20, 15, 35, 30))
    words = ("inpaint", image, "-m", half, *QUICK, "-w", weights, "-f")
    refused = d2s(*words)
    assert refused.exit_code == 4
    assert "--fit-mask resize" in refused.stderr
    result = d2s(*words, "--fit-mask", "resize")
    assert result.exit_code == 0, result.stderr
    assert "stretched from 75x55 to 150x110" in result.stderr
    where = changed(image, tmp_path / "a_d2s.png")
    assert where[30:60, 40:70].mean() > 0.9
    assert where.sum() == where[30:60, 40:70].sum()


@pytest.mark.parametrize("size", [(152, 112), (140, 100)])
@pytest.mark.parametrize("polarity", ["white", "black"])
def test_a_padded_mask_can_be_cut_or_filled(
    tmp_path: Path, weights: Path, size: tuple[int, int], polarity: str
) -> None:
    image, hole = photo(tmp_path / "a.png"), mask(tmp_path / "m.png", size=size)
    if polarity == "black":
        Image.fromarray(255 - np.asarray(Image.open(hole))).save(hole)
    words = ("-m", hole, "--fit-mask", "pad", "--polarity", polarity)
    result = d2s("inpaint", image, *words, *QUICK, "-w", weights)
    assert result.exit_code == 0, result.stderr
    assert "cut or padded" in result.stderr
    where = changed(image, tmp_path / "a_d2s.png")
    assert where[30:60, 40:70].any()
    assert where.sum() == where[30:60, 40:70].sum()
    assert d2s("compare", image, tmp_path / "a_d2s.png", *words, "--fail-if-changed").exit_code == 0


def test_an_unknown_fit_is_refused(tmp_path: Path) -> None:
    error = d2s("inpaint", photo(tmp_path / "a.png"), "--fit-mask", "crop").exception
    assert isinstance(error, UsageError)


def test_paths_come_with_nul_and_any_bytes(tmp_path: Path, weights: Path) -> None:
    name = os.fsdecode(b"two\nlines \xff.png")
    image, hole = photo(tmp_path / "a.png"), mask(tmp_path / "m.png")
    image = image.rename(tmp_path / name)
    result = d2s("inpaint", image, "-m", hole, *QUICK, "-w", weights, "-0")
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == bytes(tmp_path) + b"/two\nlines \xff_d2s.png\0"


def test_errors_are_json_where_json_was_asked_for(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "d2s_cli", "inpaint", tmp_path / "no.png", "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert error["code"] == 4
    assert "no.png" in error["message"]
    assert error["hint"]


def test_doctor_looks_quickly_or_runs_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = d2s("doctor", "--quick")
    assert quick.exit_code == 0, quick.stdout
    assert "numpy" in quick.stdout
    assert "computes" not in quick.stdout
    findings = list(doctor.check_run())
    assert [finding.level for finding in findings] == ["ok"], findings
    assert "0 pixels changed" in findings[0].text
    assert isinstance(d2s("doctor", "--quick", "--run").exception, UsageError)


def test_doctor_says_what_a_run_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr("d2s_cli.engine.inpaint", fail)
    (finding,) = doctor.check_run()
    assert (finding.level, finding.text) == ("error", "a run: no such kernel")
    assert finding.hint
