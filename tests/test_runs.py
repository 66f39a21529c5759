"""Folder runs that can be left alone: resumed, interrupted, killed, planned, piped."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_weights, photo, save_pair
from PIL import Image
from typer.testing import CliRunner, Result

from d2s_cli.cli.app import app
from d2s_cli.cli.pipes import DASH, Pipes
from d2s_cli.errors import UsageError
from d2s_cli.manifest import MANIFEST_NAME, Manifest, read_manifest


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for i in range(4):
        save_pair(tmp_path / "scans", f"p{i}", i)
    return tmp_path / "scans"


def d2s(*words: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def counts(result: Result) -> dict[str, int]:
    found: dict[str, int] = json.loads(result.stdout)["counts"]
    return {status: n for status, n in found.items() if n}


def command(scans: Path, weights: Path, *more: object) -> list[object]:
    return ["inpaint", scans, "-g", "telea", "-w", weights, "-d", "cpu", "--json", *more]


# resume


def test_a_second_run_finds_everything_done(scans: Path, weights: Path) -> None:
    assert counts(d2s(*command(scans, weights))) == {"done": 4}
    assert counts(d2s(*command(scans, weights))) == {"skipped": 4}


def edit_input(scans: Path) -> None:
    Image.fromarray(photo(90, 120, 77)).save(scans / "p2.png")


def edit_mask(scans: Path) -> None:
    Image.fromarray(np.eye(90, 120, dtype=np.uint8) * 255).save(scans / "p2_mask.png")


def remove_result(scans: Path) -> None:
    (scans.parent / "scans_d2s" / "p2.png").unlink()


def break_result(scans: Path) -> None:
    path = scans.parent / "scans_d2s" / "p2.png"
    path.write_bytes(path.read_bytes()[:-20])


def forget_result(scans: Path) -> None:
    """As if the run had been killed between the file and its line."""
    path = scans.parent / "scans_d2s" / MANIFEST_NAME
    lines = [line for line in path.read_text().splitlines() if "p2.png" not in line]
    path.write_text("\n".join(lines) + '\n{"schema": 1, "status": "do')


@pytest.mark.parametrize(
    "change", [edit_input, edit_mask, remove_result, break_result, forget_result]
)
def test_only_what_changed_is_done_again(scans: Path, weights: Path, change: Any) -> None:
    d2s(*command(scans, weights))
    change(scans)
    again = d2s(*command(scans, weights))
    assert counts(again) == {"done": 1, "skipped": 3}
    (done,) = (r for r in json.loads(again.stdout)["results"] if r["status"] == "done")
    assert done["input"]["path"].endswith("p2.png")
    assert counts(d2s(*command(scans, weights))) == {"skipped": 4}


def test_other_settings_or_weights_mean_other_results(
    scans: Path, weights: Path, tmp_path: Path
) -> None:
    d2s(*command(scans, weights))
    assert counts(d2s(*command(scans, weights, "--seed", 5))) == {"done": 4}
    other = make_weights(tmp_path / "other.safetensors", 9)
    assert counts(d2s(*command(scans, other, "--seed", 5))) == {"done": 4}
    assert counts(d2s(*command(scans, other, "--seed", 5, "-b", 1))) == {"skipped": 4}


def test_failures_are_tried_again_and_do_not_stop_the_rest(scans: Path, weights: Path) -> None:
    whole = (scans / "p1.png").read_bytes()
    (scans / "p1.png").write_bytes(whole[:200])
    first = d2s(*command(scans, weights))
    assert first.exit_code == 3
    assert counts(first) == {"done": 3, "failed": 1}
    (scans / "p1.png").write_bytes(whole)
    assert counts(d2s(*command(scans, weights))) == {"done": 1, "skipped": 3}


def test_samples_are_separate_results(scans: Path, weights: Path) -> None:
    assert counts(d2s(*command(scans, weights, "--samples", 2))) == {"done": 8}
    (scans.parent / "scans_d2s" / "p0.s2.png").unlink()
    again = counts(d2s(*command(scans, weights, "--samples", 2)))
    assert again == {"done": 2, "skipped": 6}


def test_the_manifest_says_what_made_each_result(scans: Path, weights: Path) -> None:
    d2s(*command(scans, weights))
    entries = list(read_manifest(scans.parent / "scans_d2s" / MANIFEST_NAME))
    assert len(entries) == 4
    for entry in entries:
        assert entry["status"] == "done"
        assert entry["changed_outside"] == 0
        assert entry["guide"] == {"name": "telea"}
        assert entry["tk"] == [50]
        assert len(entry["input"]["sha256"]) == len(entry["weights"]["sha256"]) == 64
        assert entry["output"]["size"] == os.path.getsize(entry["output"]["path"])


def test_half_a_line_at_the_end_harms_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    entry = {"schema": 1, "status": "done", "output": {"path": "a.png"}}
    Manifest(path).append(entry)
    with open(path, "a") as file:
        file.write('{"schema": 1, "sta')
    Manifest(path).append(entry | {"output": {"path": "b.png"}})
    assert [e["output"]["path"] for e in read_manifest(path)] == ["a.png", "b.png"]


# plans


def test_a_dry_run_prints_the_plan_and_writes_nothing(scans: Path, weights: Path) -> None:
    (scans / "p3_mask.png").unlink()
    before = sorted(scans.parent.rglob("*"))
    result = d2s("inpaint", scans, "-w", weights, "--dry-run")
    assert result.exit_code == 3
    assert "p0_mask.png -> " in result.stdout
    assert "no mask for" in result.stdout
    assert "3 to do, 1 cannot be done" in result.stderr
    assert sorted(scans.parent.rglob("*")) == before


def test_progress_as_json_lines(scans: Path, weights: Path) -> None:
    result = d2s(*command(scans, weights, "--progress", "json"))
    events = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert [e["done"] for e in events if e["kind"] == "done"] == [1, 2, 3, 4]


# pipes


def test_a_picture_through_a_pipe(scans: Path, weights: Path) -> None:
    data = (scans / "p0.png").read_bytes()
    words = ("inpaint", "-", "-m", scans / "p0_mask.png", "-g", "telea", "-w", weights, "-o", "-")
    result = d2s(*words, stdin=data)
    assert result.exit_code == 0, result.stderr
    assert "stdin.png" not in result.stderr
    after = np.asarray(Image.open(io.BytesIO(result.stdout_bytes)))
    before = np.asarray(Image.open(io.BytesIO(data)))
    changed = (after != before).any(axis=2)
    assert changed[30:50, 40:70].any()
    assert changed.sum() == changed[30:50, 40:70].sum()


def test_stdin_that_is_no_picture_is_an_error(scans: Path, weights: Path) -> None:
    result = d2s("inpaint", "-", "-m", scans / "p0_mask.png", "-w", weights, stdin=b"words")
    assert "stdin holds no picture" in str(result.exception)


# signals


def start(words: list[object]) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "d2s_cli", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def pictures(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".png"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_picture_and_the_same_command_goes_on(
    tmp_path: Path, weights: Path, number: signal.Signals, code: int
) -> None:
    for i in range(30):
        save_pair(tmp_path / "scans", f"p{i:02d}", i)
    words = command(tmp_path / "scans", weights, "-b", 1, "--progress", "json")
    process = start(words)
    assert process.stderr is not None
    for line in process.stderr:
        if '"kind": "done"' in line:
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopping after this picture" in errors
    done = pictures(tmp_path / "scans_d2s")
    assert 1 <= len(done) < 30
    again = counts(d2s(*words[:-2]))
    assert again == {"done": 30 - len(done), "skipped": len(done)}


def test_killed_runs_end_as_undisturbed_ones() -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "kill_resume.py"
    words = [sys.executable, script, "--kills", "8", "--pictures", "8"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differences from the undisturbed folders: 0" in done.stdout


def test_a_full_disk_is_said_and_leaves_the_old_file(
    scans: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    d2s(*command(scans, weights))
    before = pictures(scans.parent / "scans_d2s")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    result = d2s(*command(scans, weights, "--seed", 3))
    assert result.exit_code == 3
    assert "No space left" in result.stdout
    assert pictures(scans.parent / "scans_d2s") == before


def test_picture_data_is_not_written_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for inputs, output in (([DASH], None), ([Path("a.png")], DASH)):
        with pytest.raises(UsageError, match="terminal"):
            Pipes(inputs, output)
