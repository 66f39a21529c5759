"""docs/reference.md says what the commands say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rich.text
import typer.main
from typer.testing import CliRunner

from d2s_cli.cli.app import app

REPOSITORY = Path(__file__).resolve().parents[1]


def tool() -> ModuleType:
    path = REPOSITORY / "tools" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(command: Any, name: str) -> list[tuple[str, Any]]:
    subs = getattr(command, "commands", {})
    return [(name, command)] + [c for w, s in subs.items() for c in commands(s, f"{name} {w}")]


def test_the_reference_is_what_the_help_texts_make() -> None:
    written = (REPOSITORY / "docs" / "reference.md").read_text()
    assert tool().reference() == written, "try: python tools/make_reference.py"


def test_every_command_has_examples_and_every_option_help() -> None:
    for name, command in commands(typer.main.get_command(app), "d2s"):
        assert "\b\nExamples:\n" in command.help or hasattr(command, "commands"), name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_help_shows_every_word_of_its_texts() -> None:
    """Square brackets in them would be taken for markup, and left out."""
    for name, command in commands(typer.main.get_command(app), "d2s"):
        for text in (command.help, *(parameter.help for parameter in command.params)):
            text = text.replace("\b", "")
            assert rich.text.Text.from_markup(text).plain == text, name


def test_help_says_defaults_that_are_no_values() -> None:
    result = CliRunner().invoke(app, ["inpaint", "--help"], env={"COLUMNS": "300"})
    for default in ("NAME_d2s beside a file, FOLDER_d2s/ for a folder", "resume for folders"):
        assert f"[default: ({default}" in result.stdout


@pytest.mark.parametrize("group", ["", "mask", "paper", "guides", "weights"])
def test_lists_of_commands_have_one_line_for_each(group: str) -> None:
    shown = CliRunner().invoke(app, [*group.split(), "--help"], env={"COLUMNS": "200"}).stdout
    panels = shown.split("Show this message and exit.")[1]
    lines = [line for line in panels.splitlines() if line.startswith("│")]
    assert len(lines) > 1
    assert all(line[2] != " " for line in lines[1:]), panels
