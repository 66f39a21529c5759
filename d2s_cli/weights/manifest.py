"""The published weights that d2s knows: weights/manifest.toml. Needs no torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.weights.bundled import WEIGHTS_FOLDERS

KINDS = ("refiner", "guide", "metric")


@dataclass(frozen=True)
class PublishedFile:
    """One file of an entry, as its authors publish it. Fields as in manifest.toml."""

    name: str
    architecture: str
    sources: tuple[str, ...] = ()
    by_hand: str = ""
    member: str = ""
    inside: str = ""
    size: int | None = None
    sha256: str = ""
    sha256_starts: str = ""

    @property
    def stored_name(self) -> str:
        """In the store, where it is always a safetensors file."""
        return PurePosixPath(self.name).stem + ".safetensors"


@dataclass(frozen=True)
class Entry:
    """Weights that can be pulled or imported under a name. Fields as in manifest.toml."""

    name: str
    kind: str
    about: str
    licence: str
    files: tuple[PublishedFile, ...]
    guide: str = ""
    limits: str = ""
    citation: str = ""
    needs: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        """Bytes to fetch; None where the size of a file is not known."""
        sizes = [file.size for file in self.files]
        return sum(size for size in sizes if size) if all(sizes) else None

    @property
    def by_hand(self) -> bool:
        """Whether a file has nothing but a share page."""
        return any(not file.sources for file in self.files)


@cache
def manifest() -> dict[str, Entry]:
    """Every entry by name, in the file's order.

    Raises:
        WeightsError: the file did not come with this installation.
    """
    for folder in WEIGHTS_FOLDERS:
        if (path := folder / "manifest.toml").is_file():
            return read_manifest(path)
    raise WeightsError(
        "the list of published weights is missing", "try: pip install --force-reinstall d2s"
    )


def read_manifest(path: Path) -> dict[str, Entry]:
    """The entries of a manifest file.

    Raises:
        WeightsError: it is not one.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _entry(name, table) for name, table in tables.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} is no list of weights: {error}") from error


def _entry(name: str, table: dict[str, Any]) -> Entry:
    files = tuple(
        PublishedFile(**{**file, "sources": tuple(file.get("sources", ()))})
        for file in table.pop("files")
    )
    return Entry(name=name, files=files, **{**table, "needs": tuple(table.get("needs", ()))})


def find_entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        UsageError: there is none; the message has names that are near.
    """
    import difflib

    entries = manifest()
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name, entries, n=3)
    hint = f"did you mean: {', '.join(near)}" if near else "try: d2s weights list"
    raise UsageError(f"no weights of the name {name!r} are known", hint)


def for_guide(guide: str) -> list[Entry]:
    """The entries that a guide can use, its default first."""
    entries = [entry for entry in manifest().values() if entry.guide == guide]
    return sorted(entries, key=lambda entry: entry.name != guide)
