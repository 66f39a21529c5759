"""Weights that the user installed: where they lie, what is known about them. Needs no torch.

Each entry has a folder of its own with its files and `entry.json`, which says where they came from
and what their hashes are. Unfinished downloads lie apart, in `.partial/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import platformdirs

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.weights.bundled import bundled_weights
from d2s_cli.weights.containers import CHECKPOINT_SUFFIXES
from d2s_cli.weights.manifest import Entry, for_guide, manifest

RECORD = "entry.json"
PARTIAL = ".partial"
CHUNK = 1 << 20
#: names of entries are names of folders on every system
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StoredFile:
    """A file of an installed entry.

    Attributes:
        name: in the entry's folder.
        sha256, size: of the stored file.
        architecture: what its tensors were recognised as; empty if as nothing.
        source: where it came from, an address or the name of the imported file.
        source_sha256: of what came from there.
        published: whether that is the hash that is known from elsewhere; False where none was
            known and the first fetch was trusted.
    """

    name: str
    sha256: str
    size: int
    architecture: str
    source: str
    source_sha256: str
    published: bool


@dataclass(frozen=True)
class Installed:
    """An entry of the store, as `entry.json` has it."""

    name: str
    kind: str
    licence: str
    limits: str = ""
    files: tuple[StoredFile, ...] = field(default_factory=tuple)

    @property
    def folder(self) -> Path:
        return store_folder() / self.name

    def paths(self) -> list[Path]:
        return [self.folder / file.name for file in self.files]

    def has(self, name: str) -> bool:
        """Whether a file of that name is noted and there."""
        return any(file.name == name for file in self.files) and (self.folder / name).is_file()

    def missing(self) -> list[str]:
        """Published files that an entry of several lacks yet."""
        entry = manifest().get(self.name)
        have = {file.name for file in self.files}
        return [f.name for f in entry.files if f.stored_name not in have] if entry else []


def store_folder() -> Path:
    """The platform's data folder, or what D2S_WEIGHTS_DIR names."""
    if given := os.environ.get("D2S_WEIGHTS_DIR"):
        return Path(given)
    return Path(platformdirs.user_data_dir("d2s", appauthor=False)) / "weights"


def check_name(name: str) -> str:
    """Raise UsageError for a name that cannot be a folder's everywhere."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a name of weights",
            "use lower-case letters, digits, . _ and -, at most 64, a letter or digit first",
        )
    return name


def installed() -> dict[str, Installed]:
    """Every entry of the store by name, but for those of `damaged`."""
    return {name: record for name, record in _records().items() if isinstance(record, Installed)}


def damaged() -> dict[str, WeightsError]:
    """Entries whose record cannot be read, and why."""
    return {name: why for name, why in _records().items() if isinstance(why, WeightsError)}


def _records() -> dict[str, Installed | WeightsError]:
    found: dict[str, Installed | WeightsError] = {}
    for path in sorted(store_folder().glob(f"*/{RECORD}")):
        name = path.parent.name
        try:
            if NAME.fullmatch(name) and (record := read_record(name)) is not None:
                found[name] = record
        except WeightsError as error:
            found[name] = error
    return found


def read_record(name: str) -> Installed | None:
    """What is known about an installed entry; None if it is not installed.

    Raises:
        WeightsError: its record is damaged.
    """
    path = store_folder() / check_name(name) / RECORD
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(StoredFile(**file) for file in data.pop("files"))
        if any(Path(file.name).name != file.name for file in files):
            raise ValueError("a file outside of its folder")
        return Installed(**data, files=files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path} is damaged: {error}", f"try: d2s weights remove {name}, then add it again"
        ) from error


def write_record(entry: Installed) -> None:
    """Write `entry.json`; the name appears when it is whole."""
    path = entry.folder / RECORD
    partial = path.with_name(RECORD + ".part")
    partial.write_text(json.dumps(asdict(entry), indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def add_file(entry: Installed, file: StoredFile) -> Installed:
    """Note a file in an entry, in place of one of the same name."""
    before = read_record(entry.name)
    others = tuple(f for f in before.files if f.name != file.name) if before else ()
    now = replace(entry, files=(*others, file))
    write_record(now)
    return now


def installed_files(name: str) -> list[Path]:
    """The files of an installed entry; for a guide, those of the first installed entry that it can
    use, its default first. Checkpoints that lie in an entry's folder without a record count too.

    Raises:
        WeightsError: none is installed, or one that lacks a file.
    """
    names = [name, *(entry.name for entry in for_guide(name) if entry.name != name)]
    for found in names:
        if (record := read_record(found)) is not None:
            return _whole(record)
        if put := put_by_hand(found):
            return put
    raise WeightsError(f"the weights of {name} are not installed", how_to_get(name))


def _whole(record: Installed) -> list[Path]:
    if missing := record.missing():
        raise WeightsError(
            f"the weights {record.name} lack {', '.join(missing)}", how_to_get(record.name)
        )
    if gone := [path for path in record.paths() if not path.is_file()]:
        raise WeightsError(f"{gone[0]} is gone", f"try: d2s weights pull {record.name} --force")
    return record.paths()


def put_by_hand(name: str) -> list[Path]:
    """Checkpoints that somebody put into an entry's folder without `d2s weights import`."""
    inside = (store_folder() / check_name(name)).glob("*")
    return sorted(p for p in inside if p.suffix in CHECKPOINT_SUFFIXES and p.is_file())


def installed_entry(name: str) -> Installed:
    """The record of an installed entry.

    Raises:
        WeightsError: there is none; says how to get it.
        UsageError: the weights are not in the store since they came with d2s.
    """
    if (record := read_record(name)) is not None:
        return record
    if name in bundled_weights():
        raise UsageError(f"{name} came with d2s", "try: d2s doctor, which sees whether it loads")
    raise WeightsError(f"the weights {name} are not installed", how_to_get(name))


def is_installed(name: str) -> bool:
    """Whether `installed_files` has something for an entry or guide."""
    try:
        return bool(installed_files(name))
    except WeightsError:
        return False


def how_to_get(name: str) -> str:
    """What to type to install an entry, or one for the guide of that name."""
    entry = manifest().get(name)
    if entry is None:
        return "try: d2s weights list"
    lines = []
    if not entry.by_hand:
        lines.append(f"try: d2s weights pull {name}")
    # files of one share page are named once
    lines += dict.fromkeys(f"by hand: {file.by_hand}" for file in entry.files if file.by_hand)
    lines.append(f"if you have it: {import_line(name, [file.name for file in entry.files])}")
    others = [other.name for other in for_guide(name) if other.name != name and not other.by_hand]
    if others:
        lines.append(f"or: d2s weights pull {others[0]}")
    return "\n".join(lines)


def import_line(entry: str, files: Sequence[str]) -> str:
    """What to type to take in an entry's files once they are here."""
    whole = " (or the folder or zip file that they lie in)" if len(files) > 1 else ""
    return f"d2s weights import {' '.join(files)} --as {entry}{whole}"


def remove_entry(name: str) -> int:
    """Delete an entry and return the bytes that it took.

    A link in the store is removed itself, not what it points to.

    Args:
        name: of an entry, or PARTIAL.

    Raises:
        UsageError: there is none.
    """
    folder = store_folder() / (name if name == PARTIAL else check_name(name))
    if not folder.is_symlink() and not folder.is_dir():
        raise UsageError(f"{name} is not installed", "try: d2s weights list --installed")
    size = folder_size(folder)
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)
    return size


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def partial_folder() -> Path:
    """Where unfinished downloads lie."""
    return store_folder() / PARTIAL


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(entry: Installed) -> list[str]:
    """What is wrong with an entry's files; nothing if they are as they were put there."""
    problems = [f"{name} is missing" for name in entry.missing()]
    for file, path in zip(entry.files, entry.paths(), strict=True):
        if not path.is_file():
            problems.append(f"{path} is gone")
        elif path.stat().st_size != file.size:
            problems.append(f"{path} has {path.stat().st_size} bytes, not {file.size}")
        elif file_sha256(path) != file.sha256:
            problems.append(f"{path} has changed: its SHA-256 is not {file.sha256}")
    return problems


def how_to_check(path: Path) -> str:
    """What to type to see whether weights are what they should be."""
    if path.parent.parent == store_folder() and path.with_name(RECORD).is_file():
        return f"are its weights whole? try: d2s weights verify {path.parent.name}"
    return (
        "are its weights whole? compare size and SHA-256 with what their source says:"
        f" d2s weights info {path}"
    )


def own_entry(name: str, entry: Entry | None, kind: str, licence: str) -> Installed:
    """The record that files of an entry go into, of the manifest's or the user's own."""
    if entry is None:
        return Installed(check_name(name), kind, licence)
    return Installed(entry.name, entry.kind, entry.licence, entry.limits)
