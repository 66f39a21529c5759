"""Every broken or odd input has its outcome, and none does harm: docs/odd-inputs.md, row by row."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import test_conditions
import typer.main
import zoo_folders
from test_runs import d2s, make_weights
from typer.testing import Result
from zoo import ZOO, Odd, Words, good_pair, table

from d2s_cli.cli.app import app
from d2s_cli.errors import SOME_FAILED, D2SError
from d2s_cli.images.reading import read_photo
from d2s_cli.manifest import FINISHED

assert zoo_folders  # adds to the zoo
assert test_conditions  # adds the rows that it tests


def key(one: Odd) -> str:
    return f"{one.group}: {one.name}"


@pytest.fixture(scope="module", autouse=True)
def one_command() -> Iterator[None]:
    """The parser is built once and not for every command."""
    command = typer.main.get_command(app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", lambda app: command)
        yield


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Options of a cheap run."""
    weights = make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
    return ["-g", "telea", "--tk", 0, "-w", weights, "-d", "cpu", "--precision", "fp32", "--json"]


@dataclass
class Case:
    """An odd input made, and what was typed; no words if it is part of the one large run."""

    one: Odd
    folder: Path
    words: Words | None


@dataclass
class LargeRun:
    """All that needs no words of its own, as subfolders of one folder."""

    result: Result
    before: dict[str, str]
    after: dict[str, str]
    entries: list[dict[str, Any]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root, made = tmp_path_factory.mktemp("zoo"), {}
    for number, one in enumerate(ZOO):
        folder = root / "alone" / f"{number:03d}" / "in"
        good_pair(folder)
        words = one.make(folder)
        if words is None:
            (root / "in").mkdir(exist_ok=True)
            folder = folder.rename(root / "in" / f"{number:03d}")
        made[key(one)] = Case(one, folder, words)
    return made


@pytest.fixture(scope="module")
def large_run(cases: dict[str, Case], quick: list[object]) -> LargeRun:
    root = next(case.folder for case in cases.values() if case.words is None).parent
    before = tree(root)
    result = d2s("inpaint", root, "-r", "-o", root.parent / "out", *quick)
    assert result.exit_code == SOME_FAILED, (result.exception, result.stderr)
    entries = json.loads(result.stdout)["results"]
    return LargeRun(result, before, tree(root.parent), entries)


def tree(folder: Path) -> dict[str, str]:
    """What lies where: checksums, targets of links, kinds of other things."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            text = str(path.readlink())
        elif path.is_file():
            text = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            text = "folder" if path.is_dir() else "other"
        found[str(path.relative_to(folder))] = text
    return found


def error_of(result: Result) -> tuple[int, str, str]:
    """Exit code, message and hint of a command that stopped."""
    if isinstance(result.exception, D2SError):
        error = result.exception
        return error.exit_code, error.message, error.hint
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(
        result.exception
    )
    (entry,) = json.loads(result.stdout)["results"]
    error = entry["error"]
    assert error["code"] == result.exit_code
    return result.exit_code, error["message"], error["hint"]


PAGE = Path(__file__).resolve().parents[1] / "docs" / "odd-inputs.md"


def test_the_page_is_what_the_zoo_holds() -> None:
    """With D2S_WRITE_PAGE=1 the tables are written instead."""
    text = PAGE.read_text()
    head = text[: text.index("## ")]
    if os.environ.get("D2S_WRITE_PAGE"):
        PAGE.write_text(head + table())
    assert text == head + table(), "try: D2S_WRITE_PAGE=1 python -m pytest tests/test_zoo.py"


def test_names_are_single() -> None:
    rows = [(one.group, one.name) for one in ZOO]
    assert len(rows) == len(set(rows)) >= 60


def test_the_large_run_changes_no_input_and_leaves_nothing_half_written(
    large_run: LargeRun,
) -> None:
    now = {k.removeprefix("in/"): v for k, v in large_run.after.items() if k.startswith("in/")}
    assert now == large_run.before
    assert [name for name in large_run.after if ".part" in name] == []
    results = {name for name in large_run.after if name.startswith("out/") and "." in name}
    whole = {e["output"]["path"] for e in large_run.entries if e["status"] in FINISHED}
    assert len(results) == len(whole) + 1  # and the manifest
    assert "Traceback" not in large_run.result.stderr
    assert not set(large_run.result.stderr) & {"\x1b", "\x07"}


@pytest.mark.parametrize("one", ZOO, ids=lambda one: key(one))
def test_the_outcome_is_as_written(
    cases: dict[str, Case], quick: list[object], request: pytest.FixtureRequest, one: Odd
) -> None:
    case = cases[key(one)]
    if case.words is None:
        run: LargeRun = request.getfixturevalue("large_run")
        entries = [e for e in run.entries if str(case.folder) + os.sep in e["input"]["path"]]
        check_entries(case, entries, run.result.stderr)
        return
    before = tree(case.folder.parent)
    result = d2s("inpaint", *case.words, *quick)
    after = tree(case.folder.parent)
    assert [name for name in after if ".part" in name] == []
    if one.outcome == "stops":
        code, message, hint = error_of(result)
        assert code == one.code
        assert one.says in message
        assert hint
        assert after == before
        return
    assert result.exit_code == one.code, (result.exception, result.stderr)
    for name, content in before.items():
        if name.startswith("in"):
            assert after[name] == content
    check_entries(case, json.loads(result.stdout)["results"], result.stderr)


def check_entries(case: Case, entries: list[dict[str, Any]], heard: str) -> None:
    one, good = case.one, case.folder / "good.png"
    theirs = [entry for entry in entries if Path(entry["input"]["path"]) == good]
    ours = [entry for entry in entries if entry not in theirs]
    words = {"restored": "done", "copied": "copied", "refused": "failed"}
    wanted = {words[one.outcome]} if one.outcome != "ignored" else set()
    assert {entry["status"] for entry in ours or theirs} == wanted or (not wanted and not ours)
    assert not case.words or ours or theirs
    if case.words is None:
        assert [entry["status"] for entry in theirs] == ["done"]
    for entry in entries:
        if entry["status"] == "failed":
            check_failure(one, entry)
        else:
            check_result(entry)
    if one.outcome in ("restored", "copied"):
        notes = [text for entry in ours or theirs for text in entry["warnings"]]
        assert any(one.says in text for text in (heard, *notes))


def check_failure(one: Odd, entry: dict[str, Any]) -> None:
    error = entry["error"]
    assert one.says in error["message"]
    assert error["hint"]
    stem = Path(entry["input"]["path"]).stem
    assert stem in error["message"] or f"{stem}_mask" in error["message"]
    assert entry["output"] is None or not Path(entry["output"]["path"]).is_file()


def check_result(entry: dict[str, Any]) -> None:
    written = read_photo(Path(entry["output"]["path"]))
    assert written.size == (entry["width"], entry["height"])
    if entry["lossless"]:
        assert entry["changed_outside"] == 0
