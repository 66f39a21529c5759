"""docs/reference.md says what the commands say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.main

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
