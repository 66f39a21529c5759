"""What a run did, one JSON line for each result: the report, and what a resumed run goes by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from d2s_cli.errors import D2SError, InputError
from d2s_cli.recipe import Settings

SCHEMA = 1
#: in the output folder of a folder run
MANIFEST_NAME = "d2s-manifest.jsonl"
#: results of these are whole files
FINISHED = ("done", "copied")
#: settings that change where or how fast a result is made, and not the result; weights are known
#: by their content instead (see the entry's "weights" and "guide"), a preset by what it sets
_NOT_IN_RESULTS = (
    *("weights", "guide_weights", "device", "precision", "batch", "if_exists", "verify"),
    *("workers", "samples", "preset"),
)

Entry = dict[str, Any]


def file_record(path: Path) -> dict[str, Any]:
    """Path as given, SHA-256 and size of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": str(path), "sha256": digest, "size": file.tell()}


def settings_record(settings: Settings) -> dict[str, Any]:
    """The settings that decide what a result looks like, as JSON holds them."""
    record = {k: v for k, v in asdict(settings).items() if k not in _NOT_IN_RESULTS}
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


def failure(image: Path, output: Path | None, error: D2SError) -> Entry:
    """The entry of a picture that could not be done."""
    return {
        "schema": SCHEMA,
        "status": "failed",
        "input": {"path": str(image)},
        "output": {"path": str(output)} if output else None,
        "error": {"code": error.exit_code, "message": error.message, "hint": error.hint},
    }


def starts_of(entry: Entry) -> str:
    """T_k of a result's windows for people: one number, or the smallest "to" the largest."""
    low, high = min(entry["tk"]), max(entry["tk"])
    return f"{low}" if low == high else f"{low} to {high}"


class Manifest:
    """The lines of a manifest file by output; new ones are appended and are on disk at once.

    Args:
        path: the file; None keeps entries in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        if path is not None and path.exists():
            for entry in read_manifest(path):
                self._remember(entry)

    def _remember(self, entry: Entry) -> None:
        if path := _output_of(entry):
            self.entries[str(Path(path).absolute())] = entry

    def append(self, entry: Entry) -> None:
        """Raises InputError if the file cannot be written."""
        if entry["status"] != "skipped":
            self._remember(entry)
            if self.path is not None:
                _append_line(self.path, json.dumps(entry))

    def is_current(self, output: Path, expected: Entry) -> bool:
        """True if a whole result of exactly these inputs, weights and settings is there.

        Args:
            output: the file asked for.
            expected: "input", "mask", "guide", "weights", "settings" and, where one is used,
                "corrector" as a new entry has them.
        """
        entry = self.entries.get(str(output.absolute()))
        if entry is None or entry.get("status") not in FINISHED or not output.is_file():
            return False
        if any(_content(entry.get(key)) != _content(value) for key, value in expected.items()):
            return False
        return bool(file_record(output)["sha256"] == entry["output"].get("sha256"))


def _output_of(entry: Entry) -> str | None:
    """The path of an entry's result; None if it has none that can be understood."""
    output = entry.get("output")
    path = output.get("path") if isinstance(output, dict) else None
    return path if isinstance(path, str) else None


def _content(value: Any) -> Any:
    """A record without paths: moved files are the same files."""
    if isinstance(value, dict):
        moved = "sha256" in value
        return {k: _content(v) for k, v in value.items() if not (moved and k == "path")}
    return [_content(item) for item in value] if isinstance(value, list) else value


def read_manifest(path: Path) -> Iterable[Entry]:
    """Entries in the order written; lines that are damaged or of other kinds are left out.

    Raises:
        InputError: unreadable.
    """
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error}", "move it away, or try: --output OTHER_FOLDER"
        ) from error
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("schema") == SCHEMA:
            yield entry


def _append_line(path: Path, line: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a crash may have left half a line: begin on a new one, readers skip empty lines
        with open(path, "ab") as file:
            file.write(b"\n" * _lacks_newline(path) + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error}", "the same command makes these results again"
        ) from error


def _lacks_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
