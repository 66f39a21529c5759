"""Weights as people have them after a download: a zip file or a folder with checkpoints in it.

Authors publish zip files, and share pages make one of a folder. Of such a file only the checkpoints
that are wanted are unpacked, each under a name of d2s's own.
"""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from d2s_cli.errors import D2SError, UsageError, WeightsError
from d2s_cli.weights.archive import MAGIC, inflate, read_directory
from d2s_cli.weights.manifest import Entry, for_guide, manifest
from d2s_cli.weights.pickle_machine import MalformedPickleError

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".pkl")
#: what a Mac adds to a zip file
IGNORED = ("__MACOSX",)

#: chooses among the names of checkpoints in a container
Choice = Callable[[list[str]], Sequence[str]]


def is_container(path: Path) -> bool:
    """Whether a path is a folder, or a zip file that is no checkpoint of PyTorch's itself."""
    if path.is_dir():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return False
    try:
        names = read_directory(_mapped(path))
    except MalformedPickleError:
        return False  # whoever reads it as a checkpoint says what is wrong
    return not any(name.count("/") <= 1 and name.endswith("data.pkl") for name in names)


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def checkpoints_in(path: Path) -> list[str]:
    """Names of the checkpoints in a container, with "/" between folders.

    Raises:
        WeightsError: there is none.
    """
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    else:
        names = list(read_directory(_mapped(path)))
    found = sorted(name for name in names if _is_checkpoint(PurePosixPath(name)))
    if not found:
        raise WeightsError(
            f"no checkpoint in {path}", f"looked for {', '.join(CHECKPOINT_SUFFIXES)}"
        )
    return found


def _is_checkpoint(path: PurePosixPath) -> bool:
    # ".." is no reason to pass over a file: no name becomes a path
    hidden = any(p in IGNORED or (p[0] == "." and p != "..") for p in path.parts)
    return not hidden and path.suffix.lower() in CHECKPOINT_SUFFIXES


def those_of(names: Sequence[str], entry: Entry) -> list[str]:
    """The checkpoints that are files of an entry, by their place in what its authors publish, else
    by their names; empty where a file is missing, or might be several.
    """
    chosen = []
    for file in entry.files:
        place = file.member or file.inside
        placed = [n for n in names if place and f"/{n}".endswith(f"/{place}")]
        named = [n for n in names if PurePosixPath(n).name == file.name]
        if len(fitting := placed or named) != 1:
            return []
        chosen += fitting
    return chosen


def for_entry(path: Path, name: str | None, part: str = "") -> Choice:
    """Which checkpoints of a container to import.

    Args:
        path: the container, for messages.
        name: the entry that is wanted, or a name of the user's own; None takes what is there.
        part: of the checkpoint's path, where the user said so.
    """

    def choose(names: list[str]) -> list[str]:
        inside = [n for n in names if part in n]
        if not inside:
            missing = f"{path} holds no checkpoint with {part!r} in its path"
            raise UsageError(missing, _listed(names))
        if len(inside) == 1:
            return inside
        known = manifest()
        if name in known:
            if chosen := those_of(inside, known[name]):
                return chosen
        elif name is None:
            of_entries = (those_of(inside, entry) for entry in known.values())
            if chosen := list(dict.fromkeys(n for group in of_entries for n in group)):
                return chosen
        raise UsageError(
            f"{path} holds several checkpoints, and their names do not tell which are meant",
            f"{_listed(inside)}\nsay which: --member PART-OF-ITS-PATH, and --as NAME",
        )

    return choose


def for_guide_of(guide: str) -> Choice:
    """Which checkpoints of a container a guide takes: those of its first entry that is there, else
    all of them."""

    def choose(names: list[str]) -> list[str]:
        groups = (those_of(names, entry) for entry in for_guide(guide))
        return next((group for group in groups if group), names)

    return choose


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return "\n".join(["it holds:", *(f"  {name}" for name in names[:most]), *more])


@contextlib.contextmanager
def opened(path: Path, choose: Choice) -> Iterator[list[tuple[str, Path]]]:
    """Checkpoints of a container as files, while they are needed. Errors that are raised meanwhile
    name the container, not the place that a file was unpacked to.

    Args:
        path: for which `is_container` is true.
        choose: which of them.

    Yields:
        For each its name in the container, and where it lies.

    Raises:
        WeightsError: none there, damaged, or more than weights can be.
    """
    names = choose(checkpoints_in(path))
    if path.is_dir():
        yield [(name, path / name) for name in names]
        return
    # on Windows, files whose numbers are still in use stay until the system clears them
    with tempfile.TemporaryDirectory(prefix="d2s-", ignore_cleanup_errors=True) as folder:
        made = []
        for number, name in enumerate(names):
            inner = Path(folder) / str(number)
            inner.mkdir()
            target = inner / f"{_plain(PurePosixPath(name).stem)}{PurePosixPath(name).suffix}"
            unpack(path, name, target)
            made.append((name, target))
        try:
            yield made
        except D2SError as error:
            for name, file in made:
                error.message = error.message.replace(str(file), f"{path}: {name}")
                # what to type next is about the container
                error.hint = error.hint.replace(str(file), str(path))
            error.args = (error.message,)
            raise


def _plain(text: str) -> str:
    """A part of a name with nothing in it that a system could take for something else."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)
    return kept[:100].strip(".") or "weights"


def unpack(archive: Path, name: str, target: Path) -> None:
    """One file of a zip file.

    Raises:
        WeightsError: not there, damaged, or more than weights can be.
    """
    try:
        buffer = _mapped(archive)
        records = read_directory(buffer)
        if name not in records:
            raise MalformedPickleError("it is not among its files")
        with target.open("xb") as out:
            for piece in inflate(buffer, records[name]):
                out.write(piece)
    except (MalformedPickleError, ValueError) as error:  # an empty file cannot be mapped
        target.unlink(missing_ok=True)
        raise WeightsError(
            f"{archive} does not hold {name} whole: {error}", "fetch or copy the file again"
        ) from error
    except OSError as error:
        target.unlink(missing_ok=True)
        raise WeightsError(f"cannot unpack {name}: {error}", "make room on the disk") from error
