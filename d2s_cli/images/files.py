"""Whether there is a file to read under a name, and what to say if there is none."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from d2s_cli.errors import InputError


def check_file(path: Path, what: str, hint: str) -> None:
    """Raise InputError unless a regular file, or a link to one, is there.

    Pipes and devices are refused before anything opens them: reading one may wait for ever.

    Args:
        path: the file.
        what: what it should be, "picture" or "mask".
        hint: what to do if nothing is there.
    """
    if os.path.isfile(path):  # unlike Path.is_file, False for names that are too long
        return
    if leads_nowhere(path):
        raise InputError(f"{what} {path} is a link to nothing", "mend the link, or remove it")
    if os.path.exists(path):
        raise InputError(
            f"{path} is no file, so no {what}", "give a file; - reads one picture from stdin"
        )
    raise InputError(f"no {what} at {path}", hint)


def leads_nowhere(path: Path) -> bool:
    """True for a link to something that is not there, or to itself."""
    return os.path.islink(path) and not os.path.exists(path)


def check_writable(path: Path) -> None:
    """Raise InputError if a file of that name cannot be written for sure; makes no folder."""
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    effective = os.access in os.supports_effective_ids
    if not os.path.isdir(folder) or not os.access(
        folder, os.W_OK | os.X_OK, effective_ids=effective
    ):
        raise InputError(f"cannot write {path}: no writing in {folder}", "try: --output OTHER")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system says against writing into `folder` (full, forbidden) into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write into {folder}: {error.strerror or error}", "try: --output OTHER_FOLDER"
        ) from error


def typed(path: Path) -> str:
    """A path as it is typed in a shell, for hints."""
    return shlex.quote(str(path))
