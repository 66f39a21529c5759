"""Commands that the documents and the help texts show are ones that d2s takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from d2s_cli.cli.app import app

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    REPOSITORY / "README.md",
    *sorted(REPOSITORY.glob("docs/*.md")),
    *sorted(REPOSITORY.glob("benchmarks/*.md")),
    REPOSITORY / "weights" / "MODEL_CARD.md",
]
#: ends of a command within a line of shell
_ENDS = {"|", "||", "&&", ";", ">", ">>", "<", "&"}


def shown(text: str) -> Iterator[list[str]]:
    """The words of each d2s command in blocks of shell, without `d2s`."""
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            reader = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            reader.whitespace_split = True
            words = list(reader)
            while words:
                end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
                command, words = words[:end], words[end + 1 :]
                starts = [i for i, word in enumerate(command) if re.fullmatch(r"(.*/)?d2s", word)]
                modules = [i for i, word in enumerate(command) if word == "d2s_cli"]
                if starts and starts[0] == 0:
                    yield command[1:]
                elif modules:
                    yield command[modules[0] + 1 :]


def taken(command: Any, name: str, words: list[str]) -> None:
    """Parse without running; raises what the command line would say."""
    context = command.make_context(name, list(words))
    rest = [*getattr(context, "_protected_args", []), *context.args]
    if hasattr(command, "commands"):
        word, sub, more = command.resolve_command(context, rest)
        taken(sub, word, more)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_can_be_typed(document: Path) -> None:
    root = typer.main.get_command(app)
    for words in shown(document.read_text("utf-8")):
        if words and not {"--help", "-h", "--version"} & set(words) and "..." not in words:
            try:
                taken(root, "d2s", words)
            except Exception as error:
                pytest.fail(f"d2s {shlex.join(words)}: {error}")


def test_examples_of_the_help_texts_can_be_typed() -> None:
    root = typer.main.get_command(app)
    examples = [shown(f"```sh\n{text}\n```") for text in _helps(root)]
    lines = [words for found in examples for words in found]
    assert len(lines) > 60
    for words in lines:
        if words:
            taken(root, "d2s", words)


def _helps(command: Any) -> Iterator[str]:
    yield (command.help or "").partition("Examples:\n")[2]
    for sub in getattr(command, "commands", {}).values():
        yield from _helps(sub)


def test_words_that_d2s_does_not_take_are_seen() -> None:
    root = typer.main.get_command(app)
    for words in (["inpaint", "x", "--nope"], ["inpant"], ["weights", "info", "x", "--nope"]):
        with pytest.raises(Exception, match="No such"):
            taken(root, "d2s", words)


def test_commands_are_found_in_the_documents() -> None:
    counts = [len(list(shown(document.read_text("utf-8")))) for document in DOCUMENTS]
    assert counts[0] > 20
    assert sum(counts) > 100
