"""`d2s weights verify` and `remove`: what is in the store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.console import say, size_text
from d2s_cli.cli.weights_add import DryRun
from d2s_cli.errors import CHECK_FAILED, UsageError

Installables = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME...]",
        show_default="all",
        autocompletion=suggestions.installed_names,
        help="Installed entries.",
    ),
]


def verify_weights(names: Installables = None, quiet: opt.Quiet = False) -> None:
    """Check installed files against the SHA-256 that they had when they were put there. Exit 7 if
    one differs.

    \b
    Examples:
      d2s weights verify
      d2s weights verify lama && d2s inpaint photo.png -m m.png --guide lama
    """
    from d2s_cli.weights.store import damaged, installed, installed_entry, verify

    wrong = False
    for name, error in damaged().items() if not names else ():
        wrong = True
        print(f"{name}: {error.message}")
        say(f"  {error.hint}")
    for name in names or installed():
        record = installed_entry(name)
        problems = verify(record)
        wrong |= bool(problems)
        for problem in problems:
            print(f"{name}: {problem}")
        if problems:
            say(f"  try: d2s weights pull {name} --force, or import it again")
        elif not quiet:
            known = all(file.published for file in record.files)
            trust = "" if known else " (as first fetched: no published hash is known)"
            print(f"{name}: ok{trust}")
    if not names and not wrong and not installed():
        say("none are installed; d2s doctor looks at those that came with d2s")
    if wrong:
        raise typer.Exit(CHECK_FAILED)


def remove(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            show_default=False,
            autocompletion=suggestions.installed_names,
            help="Installed entries.",
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also unfinished downloads, of every entry.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Delete installed weights.

    \b
    Examples:
      d2s weights remove lama-traced
      d2s weights remove --partial --yes
    """
    from d2s_cli.weights.store import PARTIAL, partial_folder, remove_entry, store_folder

    chosen = {name: store_folder() / _removable(name) for name in names or []}
    if partial and partial_folder().is_dir():
        chosen[PARTIAL] = partial_folder()
    if not chosen:
        say("nothing to remove")
        return
    for folder in chosen.values():
        print(folder)
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            words = " ".join([*(names or []), *(["--partial"] if partial else [])])
            raise UsageError("remove asks first", f"try: d2s weights remove {words} --yes")
        if not typer.confirm(f"Delete {len(chosen)}?", default=False, err=True):
            return
    freed = sum(remove_entry(name) for name in chosen)
    say(f"{size_text(freed)} freed")


def _removable(name: str) -> str:
    """The name, if it is that of something in the store, damaged or not."""
    from d2s_cli.weights.store import check_name, store_folder

    folder = store_folder() / check_name(name)
    if not folder.is_symlink() and not folder.is_dir():
        raise UsageError(f"{name} is not installed", "try: d2s weights list --installed")
    return name
