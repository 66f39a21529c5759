"""Write docs/reference.md from the help texts: `python tools/make_reference.py`.

`tests/test_reference.py` fails when the file is not what this makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import typer.main  # noqa: E402

from d2s_cli.cli.app import app, first_sentence  # noqa: E402

TARGET = ROOT / "docs" / "reference.md"
START = """\
# Commands

Made from the help texts by `python tools/make_reference.py`; do not edit. `d2s COMMAND --help` says
the same.
"""


def reference() -> str:
    """The page, markdown."""
    root = typer.main.get_command(app)
    return "\n".join([START, *_pages(root, "d2s")]).rstrip() + "\n"


def _pages(command: Any, name: str) -> Iterator[str]:
    yield f"{'#' * (len(name.split()) + 1)} {name}\n"
    yield from _text(command.help or "")
    subcommands = getattr(command, "commands", {})
    if subcommands:
        yield "| command | |\n| --- | --- |"
        for word, sub in subcommands.items():
            place = f"{name.replace(' ', '-')}-{word}"
            yield f"| [`{name} {word}`](#{place}) | {first_sentence(sub.help or '')} |"
        yield ""
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    if parameters:
        yield "| option | |\n| --- | --- |"
        yield from (f"| {_cell(_names(p))} | {_cell(_meaning(p))} |" for p in parameters)
        yield ""
    for word, sub in subcommands.items():
        yield from _pages(sub, f"{name} {word}")


def _text(text: str) -> Iterator[str]:
    """The help's paragraphs; what follows a line `\\b` keeps its line breaks as code."""
    for paragraph in text.split("\n\n"):
        paragraph = paragraph.strip("\n")
        if not paragraph.startswith("\b"):
            yield " ".join(paragraph.split()) + "\n"
            continue
        title, *lines = paragraph.removeprefix("\b").strip("\n").splitlines()
        if title.strip() == "Examples:":
            yield "```sh\n" + "\n".join(line.removeprefix("  ") for line in lines) + "\n```\n"
        else:
            yield " ".join([title, *lines]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    if parameter.secondary_opts:
        names += " / " + ", ".join(f"`{name}`" for name in parameter.secondary_opts)
    return names if parameter.is_flag else f"{names} `{parameter.metavar or 'VALUE'}`"


def _meaning(parameter: Any) -> str:
    parts = [" ".join((parameter.help or "").split())]
    if parameter.envvar:
        parts.append(f"[env: {parameter.envvar}]")
    shown, default = parameter.show_default, parameter.default
    if isinstance(shown, str):  # in words
        default = shown
    told = shown is not False and default is not None and default is not False
    if told and not parameter.required:
        parts.append(f"[default: {default}]")
    if parameter.required:
        parts.append("[required]")
    return " ".join(filter(None, parts))


def main() -> None:
    TARGET.write_text(reference())


if __name__ == "__main__":
    main()
