"""Files that appear under their name only when whole, also where several runs write the same one.

Until then a file has a hidden name beside its own, which is locked while it is written to. The
system gives a lock back when the program ends, however it ends: what lies there without a lock was
left behind by a run that was killed, and is written over.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from d2s_cli.errors import InputError

if sys.platform != "win32":
    import fcntl

#: bytes that file systems take in a name
LONGEST_NAME = 255


def partial_path(path: Path, number: int = 1) -> Path:
    """The name that a file has until it is whole; for long names a shorter one, made from them.

    Args:
        path: the file.
        number: 1, or more if other runs are writing the file too.
    """
    part = f"part{number}" if number > 1 else "part"
    name = f".{path.stem}.{part}{path.suffix}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.stem)).hexdigest()}.{part}{path.suffix}"
    return path.with_name(name)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name only when it is whole; its folder is made.

    Raises:
        InputError: it cannot be written; nothing is left behind, and a file that was there stays.
    """
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial, file = _claim(path)
            if sys.platform != "win32":
                # the lock goes with the last handle: it has to outlast the new name, and removal
                held.callback(os.close, os.dup(file.fileno()))
            try:
                with file:
                    yield file
                os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        except (OSError, ValueError, struct.error) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            hint = "make room on the disk" if full else "try: --output OTHER, or --format png"
            raise InputError(f"cannot write {path}: {error}", hint) from error


def _claim(path: Path) -> tuple[Path, BinaryIO]:
    """The first hidden name that no other run writes to, and its file, empty."""
    numbers = itertools.count(1)
    while (file := _open_alone(partial := partial_path(path, next(numbers)))) is None:
        pass
    while (other := partial_path(path, next(numbers))).exists():
        if (left := _open_alone(other)) is not None:  # by a killed run beside others
            with left:
                other.unlink(missing_ok=True)
    return partial, file


def _open_alone(partial: Path) -> BinaryIO | None:
    """The file to write to, empty; None if another run is writing to it."""
    if sys.platform == "win32":
        while True:
            try:
                return open(partial, "xb")
            except FileExistsError:
                try:
                    partial.unlink()  # which Windows refuses while another program has it open
                except PermissionError:
                    return None
    while True:
        file = open(partial, "wb", opener=_without_emptying)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass  # a file system without locks, where d2s has to be alone in a folder
        if _is_still_named(file, partial):
            file.truncate(0)
            return file
        file.close()


def _without_emptying(name: str, flags: int) -> int:
    return os.open(name, flags & ~os.O_TRUNC, 0o666)


def _is_still_named(file: BinaryIO, path: Path) -> bool:
    """False if another run has finished or removed the file between its opening and its lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
