"""`d2s weights pull` and `import`: weights come into the store, licence first."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.console import say, size_text
from d2s_cli.cli.transfers import TransferDisplay
from d2s_cli.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from d2s_cli.weights.manifest import Entry
    from d2s_cli.weights.store import Installed

Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Do not ask; accept licences that limit use."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Print what would be done, and do nothing.")
]


def pull(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            show_default=False,
            autocompletion=suggestions.published_names,
            help='Names from "d2s weights list".',
        ),
    ],
    mirror: Annotated[
        str,
        typer.Option(
            "--mirror",
            metavar="URL",
            envvar="D2S_MIRROR",
            show_default=False,
            help="Look here first for the file of its published name; file:///FOLDER too. Proxies"
            " are those of HTTPS_PROXY and NO_PROXY.",
        ),
    ] = "",
    yes: Yes = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", envvar="D2S_OFFLINE", help="Use no network."),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, help="Seconds without an answer.")
    ] = 30,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", min=0, help="Further tries for each source.")
    ] = 5,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Fetch again what is installed.")
    ] = False,
    dry_run: DryRun = False,
    progress: opt.Progress = "auto",
    quiet: opt.Quiet = False,
) -> None:
    """Download weights. The licence is shown first. An interrupted download goes on where it
    stopped, and nothing is installed before its size and SHA-256 are right. What inference needs is
    kept, as safetensors.

    \b
    Examples:
      d2s weights pull lama-traced
      # a licence that limits use has to be accepted
      d2s weights pull mat-places --yes
      # from a disk, for machines without a network
      d2s weights pull lama-traced --mirror file:///media/usb --offline
    """
    from d2s_cli.weights.download import Settings, addresses
    from d2s_cli.weights.store import read_record

    settings = Settings(mirror, timeout, retries, offline)
    entries = []
    for entry in _with_needs(names):
        record = read_record(entry.name)
        if record is None or record.missing() or force:
            entries.append(entry)
        elif not quiet:
            say(f"{entry.name} is installed already")
    for entry in entries:
        say(_notice(entry))
        if dry_run:
            for file in entry.files:
                where = " or ".join(addresses(file, settings)) or f"by hand: {file.by_hand}"
                print(f"{entry.name}: {file.name}, {size_text(file.size)}, from {where}")
    if dry_run:
        return
    to_be_had = [e for e in entries if all(addresses(file, settings) for file in e.files)]
    _accept([entry for entry in to_be_had if entry.limits], yes, "pull", names)
    for entry in entries:
        _pull(entry, settings, TransferDisplay(progress, quiet), force, quiet)


def _with_needs(names: list[str]) -> list[Entry]:
    """The entries named, and those that they are of no use without, each once."""
    from d2s_cli.weights.bundled import bundled_weights
    from d2s_cli.weights.manifest import find_entry

    entries: dict[str, Entry] = {}
    for name in names:
        if name in bundled_weights():
            say(f"{name} came with d2s")
            continue
        entry = find_entry(name)
        entries |= {n: find_entry(n) for n in (name, *entry.needs)}
    return list(entries.values())


def _pull(entry: Entry, settings: Any, display: TransferDisplay, force: bool, quiet: bool) -> None:
    from d2s_cli.weights.download import fetch
    from d2s_cli.weights.store import read_record

    there = read_record(entry.name)
    for file in entry.files:
        if there is not None and there.has(file.stored_name) and not force:
            continue  # of several files, an earlier run came this far
        with display:
            fetched = fetch(entry.name, file, settings, display)
        say_unless(quiet, f"fetched {file.name} from {fetched.source}")
        from d2s_cli.weights.convert import install

        record = install(entry, file, fetched)
        say_unless(quiet, f"installed {record.folder / file.stored_name}")
        if not fetched.published:
            say_unless(
                quiet,
                f"note: no SHA-256 of {file.name} is known; this one is remembered:"
                f" {fetched.sha256}",
            )
    say_unless(quiet, _how_to_use(entry.name, entry.kind, entry.guide))


def say_unless(quiet: bool, text: str) -> None:
    if not quiet:
        say(text)


def _how_to_use(name: str, kind: str, guide: str) -> str:
    if guide == name:
        return f"use it: d2s inpaint photo.png -m m.png --guide {guide}"
    if guide:
        return f"use it: d2s inpaint photo.png -m m.png --guide {guide} --guide-weights {name}"
    if kind == "refiner":
        return f"use it: d2s inpaint photo.png -m m.png --weights {name}"
    return f"{name} is ready"


def _notice(entry: Entry) -> str:
    lines = [f"{entry.name}: {entry.about}", f"  licence: {entry.licence}"]
    if entry.limits:
        lines.append(f"  limits: {entry.limits}")
    return "\n".join([*lines, f"  cite: {entry.citation}"])


def _accept(limited: list[Entry] | list[Installed], yes: bool, verb: str, words: list[str]) -> None:
    """Ask whether licences that limit use are accepted.

    Raises:
        UsageError: they are not, or nobody can be asked.
    """
    if yes or not limited:
        return
    names = ", ".join(entry.name for entry in limited)
    hint = f"to accept: d2s weights {verb} {' '.join(words)} --yes"
    if not sys.stdin.isatty():
        raise UsageError(f"the licence of {names} limits use and has to be accepted", hint)
    if not typer.confirm(f"Accept the licence of {names}?", default=False, err=True):
        raise UsageError(f"the licence of {names} was not accepted; nothing was done", hint)


def import_weights(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            show_default=False,
            help="Checkpoints of any container, or zip files or folders that hold them.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            show_default="recognised",
            autocompletion=suggestions.published_names,
            help="The entry that it is, or a name of your own.",
        ),
    ] = None,
    member: Annotated[
        str,
        typer.Option(
            "--member",
            metavar="TEXT",
            show_default=False,
            help="Of several checkpoints in a zip file or folder, those with this in their path.",
        ),
    ] = "",
    sha256: Annotated[
        str | None,
        typer.Option(
            "--sha256",
            metavar="HEX",
            show_default=False,
            help="Refuse the file (one alone) unless it has this hash.",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", metavar="TEXT", help="Of weights of your own.")
    ] = "not stated",
    yes: Yes = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace what is installed under that name.")
    ] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Add checkpoints that you have, unpacked or not. Each is recognised by its tensors, whatever
    its name, and what inference needs is kept, as safetensors; the file itself is not changed.

    \b
    Examples:
      d2s weights import ~/Downloads/celeba_hq.ckpt
      d2s weights import big-lama.zip
      # a folder, or both files of it
      d2s weights import celeba/ --as edgeconnect --yes
      # of several checkpoints in one archive
      d2s weights import lama-models.zip --as lama-celeba
      d2s weights import runs/mine/refiner.safetensors --as mine
    """
    from d2s_cli.weights.containers import checkpoints_in, for_entry, is_container, opened
    from d2s_cli.weights.manifest import manifest
    from d2s_cli.weights.store import file_sha256

    if sha256 is not None and (len(files) > 1 or files[0].is_dir()):
        raise UsageError("--sha256 is for one file", "import the files one by one")
    records: dict[str, Installed] = {}
    how = _Import(name, licence, yes, force, quiet)
    for path in files:
        if not path.exists():
            raise WeightsError(f"no weights file at {path}")
        found = file_sha256(path) if path.is_file() else ""
        if sha256 is not None and found != sha256.lower():
            raise WeightsError(f"{path} has the SHA-256 {found}, not {sha256.lower()}")
        if not is_container(path):
            record = _import(path, found, path.name, how)
            records[record.name] = record
            continue
        with opened(path, for_entry(path, name, member)) as made:
            if more := len(checkpoints_in(path)) - len(made):
                say_unless(quiet, f"note: {path} holds {more} more checkpoints; --member takes one")
            for inner, file in made:
                origin = inner if path.is_dir() else f"{path.name}: {inner}"
                record = _import(file, found or file_sha256(file), origin, how)
                records[record.name] = record
    for record in records.values():
        if missing := record.missing():
            say(f"{record.name} still lacks {', '.join(missing)}")
        else:
            guide = manifest()[record.name].guide if record.name in manifest() else ""
            say_unless(quiet, _how_to_use(record.name, record.kind, guide))


@dataclass(frozen=True)
class _Import:
    """What was asked for; see `import_weights`."""

    name: str | None
    licence: str
    yes: bool
    force: bool
    quiet: bool


def _import(path: Path, sha256: str, origin: str, how: _Import) -> Installed:
    """Install a file.

    Args:
        path: where it lies.
        sha256: of what the user has: the file, or the zip file that it came in.
        origin: what the record calls it.
        how: what was asked for.
    """
    from d2s_cli.weights.convert import choose_entry, inspect, own_kind, store_checkpoint
    from d2s_cli.weights.store import own_entry, read_record, remove_entry

    checkpoint = inspect(path)
    entry, file = choose_entry(checkpoint, sha256, how.name)
    record = own_entry(
        entry.name if entry else str(how.name), entry, own_kind(checkpoint), how.licence
    )
    target = file.stored_name if file else path.stem + ".safetensors"
    before = read_record(record.name)
    own_refiner = file is None and record.kind == "refiner"
    there = before is not None and (own_refiner or target in {f.name for f in before.files})
    if there and not how.force:
        raise UsageError(
            f"{record.name} is installed already",
            f"try: d2s weights import {path} --as {record.name} --force",
        )
    if entry is not None:
        say(_notice(entry))
        _accept([entry] if entry.limits else [], how.yes, "import", [str(path), "--as", entry.name])
    if there and own_refiner:
        remove_entry(record.name)
    published = bool(file and file.sha256 == sha256)
    record = store_checkpoint(checkpoint, record, target, origin, sha256, published)
    say_unless(how.quiet, f"{origin} is {checkpoint.about}; stored as {record.folder / target}")
    if file is not None and not published:
        what = "is not the published one" if file.sha256 else "is not known from elsewhere"
        say_unless(how.quiet, f"note: its SHA-256 {what}; it is remembered: {sha256}")
    return record
