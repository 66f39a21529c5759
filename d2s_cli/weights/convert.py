"""From a published checkpoint to an entry of the store: recognise, keep what inference needs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.weights.containers import unpack
from d2s_cli.weights.download import Fetched, discard
from d2s_cli.weights.manifest import Entry, PublishedFile, find_entry, manifest
from d2s_cli.weights.reading import read_header, read_weights, write_safetensors
from d2s_cli.weights.recognise import Match, recognise
from d2s_cli.weights.store import (
    Installed,
    StoredFile,
    add_file,
    check_name,
    file_sha256,
    own_entry,
)

#: where a converted file's header says what it was made from
SOURCE_KEY = "source"
#: d2s's own weights say what they are in their header
OWN_REFINER, OWN_GUIDE = "d2s-refiner", "fill"
OWN = {OWN_REFINER: "a refiner that d2s trained", OWN_GUIDE: "a guide that d2s trained"}


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read and looked at.

    Attributes:
        tensors: by their names in the file.
        header: what d2s wrote about itself into it; empty for other files.
        match: what was recognised in it; None if nothing was.
    """

    path: Path
    tensors: dict[str, Tensor]
    header: dict[str, Any]
    match: Match | None

    @property
    def architecture(self) -> str:
        if self.match is not None and not self.header:
            return self.match.architecture
        if self.header.get("architecture") == OWN_GUIDE:
            return OWN_GUIDE
        return OWN_REFINER if "unet" in self.header else ""

    @property
    def about(self) -> str:
        """For people."""
        if self.architecture in OWN:
            return OWN[self.architecture]
        return self.match.about if self.match else "no network that d2s knows"


def inspect(path: Path) -> Checkpoint:
    """Read a file of any name and container, and recognise what is in it.

    Raises:
        WeightsError: damaged or hostile.
    """
    tensors, header = read_weights(path)
    return Checkpoint(
        path, tensors, header, recognise({k: tuple(t.shape) for k, t in tensors.items()})
    )


def store_checkpoint(
    checkpoint: Checkpoint, entry: Installed, name: str, origin: str, sha256: str, published: bool
) -> Installed:
    """Write what inference needs of a checkpoint into the store, and note where it came from.

    Args:
        entry: the record that the file goes into.
        name: of the file in the entry's folder.
        origin: address or name of the source.
        sha256: of the source.
        published: whether that hash is known from elsewhere.
    """
    entry.folder.mkdir(parents=True, exist_ok=True)
    target = entry.folder / name
    about = {
        "architecture": checkpoint.architecture,
        "source": origin,
        "source_sha256": sha256,
        "licence": entry.licence,
    }
    match = checkpoint.match
    keep = match.keep if match and not checkpoint.header else tuple(checkpoint.tensors)
    tensors = {key: checkpoint.tensors[key] for key in keep}
    if checkpoint.header:
        write_safetensors(target, tensors, checkpoint.header, dtype=None)
    else:
        write_safetensors(target, tensors, about, dtype=None, key=SOURCE_KEY)
    stored = StoredFile(
        name=name,
        sha256=file_sha256(target),
        size=target.stat().st_size,
        architecture=checkpoint.architecture,
        source=origin,
        source_sha256=sha256,
        published=published,
    )
    return add_file(entry, stored)


def install(entry: Entry, file: PublishedFile, fetched: Fetched) -> Installed:
    """Put a fetched file into the store; the download is removed.

    Raises:
        WeightsError: it is damaged, hostile, or not what the entry says.
    """
    path = fetched.path
    try:
        if file.member:
            path = fetched.path.with_name(fetched.path.name + ".unpacked")
            discard(path)
            unpack(fetched.path, file.member, path)
        checkpoint = inspect(path)
        _check_architecture(checkpoint, file)
        record = store_checkpoint(
            checkpoint,
            own_entry(entry.name, entry, entry.kind, entry.licence),
            file.stored_name,
            fetched.source,
            fetched.sha256,
            fetched.published,
        )
    finally:
        discard(path)
        discard(fetched.path)
        with contextlib.suppress(OSError):  # something else is begun there
            fetched.path.parent.rmdir()
    return record


def _check_architecture(checkpoint: Checkpoint, file: PublishedFile) -> None:
    if checkpoint.architecture == file.architecture:
        return
    names = ", ".join(list(checkpoint.tensors)[:4])
    raise WeightsError(
        f"{checkpoint.path} holds {checkpoint.about}, not {file.architecture}",
        f"its tensors begin with: {names}",
    )


def choose_entry(
    checkpoint: Checkpoint, sha256: str, given: str | None
) -> tuple[Entry | None, PublishedFile | None]:
    """Which entry of the manifest a file belongs to, and which file of it; (None, None) for the
    user's own.

    Args:
        given: the name that the user wants.

    Raises:
        UsageError: it fits several; the message has their names.
        WeightsError: it fits none, and no name was given.
    """
    fitting = [
        (entry, file)
        for entry in manifest().values()
        for file in entry.files
        if file.architecture == checkpoint.architecture
    ]
    if given is not None:
        if given not in manifest():
            check_name(given)
            return None, None
        own = [pair for pair in fitting if pair[0].name == given]
        if not own:
            try:
                _check_architecture(checkpoint, find_entry(given).files[0])
            except WeightsError as error:
                if fitting:
                    error.hint = (
                        f"try: d2s weights import {checkpoint.path} --as {fitting[0][0].name}"
                    )
                raise
        return own[0]
    exact = [pair for pair in fitting if pair[1].sha256 == sha256]
    named = [pair for pair in fitting if pair[1].name == checkpoint.path.name]
    for choice in (exact, named, fitting):
        if len(choice) == 1:
            return choice[0]
    path = checkpoint.path
    if fitting:
        names = ", ".join(entry.name for entry, _ in fitting)
        raise UsageError(
            f"{path} holds {checkpoint.about}, which fits several entries: {names}",
            f"try: d2s weights import {path} --as {fitting[0][0].name}",
        )
    if checkpoint.architecture in OWN:
        raise UsageError(
            f"{path} is {checkpoint.about}; it needs a name",
            f"try: d2s weights import {path} --as {path.stem.lower()}",
        )
    raise WeightsError(
        f"{path} holds {checkpoint.about}",
        f"its tensors begin with: {', '.join(list(checkpoint.tensors)[:4])}\n"
        f"to keep it under a name all the same: d2s weights import {path} --as NAME",
    )


def own_kind(checkpoint: Checkpoint) -> str:
    """Of the user's own weights: what they can be used as."""
    refiners = (OWN_REFINER, "palette")
    return "refiner" if checkpoint.architecture in refiners else "guide"


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `d2s weights info` says about a file."""
    tensors = checkpoint.tensors.values()
    return {
        "file": str(checkpoint.path),
        "size": checkpoint.path.stat().st_size,
        "sha256": file_sha256(checkpoint.path),
        "recognised": checkpoint.about,
        "architecture": checkpoint.architecture,
        "tensors": len(checkpoint.tensors),
        "numbers": sum(tensor.numel() for tensor in tensors),
        "formats": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}),
        "header": checkpoint.header,
        "made_from": read_header(checkpoint.path, SOURCE_KEY),
    }


def tensor_lines(tensors: dict[str, Tensor]) -> Sequence[str]:
    """Name, shape and format of each tensor."""
    return [
        f"{k} {list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for k, t in tensors.items()
    ]
