"""`d2s weights`: the group of commands about weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.console import say, size_text
from d2s_cli.cli.suggestions import one_of
from d2s_cli.cli.transfers import TransferDisplay
from d2s_cli.errors import CHECK_FAILED, UsageError, WeightsError

if TYPE_CHECKING:
    from d2s_cli.weights.manifest import Entry
    from d2s_cli.weights.store import Installed

weights_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Weights on this machine. Only pull uses the network. Files are checked by SHA-256 and"
    " read without running code from them.",
)

Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Do not ask; accept licences that limit use."),
]
Installables = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME...]",
        show_default=False,
        autocompletion=suggestions.installed_names,
        help="Installed entries. [default: all]",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Print what would be done, and do nothing.")
]


@weights_app.command("list")
def list_weights(
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            show_default=False,
            autocompletion=one_of(suggestions.WEIGHTS_KINDS),
            help="refiner, guide or metric.",
        ),
    ] = None,
    only_installed: Annotated[
        bool, typer.Option("--installed", help="Only what is on this machine.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """What is on this machine and what can be had: name, kind, state, size and licence.

    \b
    Examples:
      d2s weights list
      d2s weights list --kind guide --installed
    """
    if kind is not None and kind not in suggestions.WEIGHTS_KINDS:
        raise UsageError(
            f"unknown --kind {kind!r}", f"one of: {', '.join(suggestions.WEIGHTS_KINDS)}"
        )
    rows = [row for row in _rows() if kind in (None, row["kind"])]
    if only_installed:
        rows = [row for row in rows if row["state"] in HERE]
    if as_json:
        print(json.dumps({"schema": 1, "weights": rows}, indent=1))
        return
    table = [
        [row["name"], row["kind"], row["state"], size_text(row["size"]), row["licence"]]
        for row in rows
    ]
    widths = [max((len(line[column]) for line in table), default=0) for column in range(4)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([*cells, line[4]]))


#: states of what is on this machine
HERE = ("bundled", "installed", "incomplete", "damaged")


def _rows() -> list[dict[str, Any]]:
    from d2s_cli.weights.bundled import bundled_weights
    from d2s_cli.weights.manifest import manifest
    from d2s_cli.weights.store import damaged, folder_size, installed

    rows = [
        _row(name, "refiner", "bundled", path.stat().st_size, "Apache-2.0", "")
        for name, path in bundled_weights().items()
    ]
    here, broken, known = installed(), damaged(), manifest()
    for name in [*known, *(name for name in (*here, *broken) if name not in known)]:
        if name in broken:
            rows.append(_row(name, "", "damaged", None, "", ""))
            continue
        if (record := here.get(name)) is not None:
            state = "incomplete" if record.missing() else "installed"
            size: int | None = folder_size(record.folder)
            kind, licence, limits = record.kind, record.licence, record.limits
        else:
            entry = known[name]
            state, size = "by hand" if entry.by_hand else "to pull", entry.size
            kind, licence, limits = entry.kind, entry.licence, entry.limits
        rows.append(_row(name, kind, state, size, licence, limits))
    return rows


def _row(
    name: str, kind: str, state: str, size: int | None, licence: str, limits: str
) -> dict[str, Any]:
    licence = licence + (f" ({limits})" if limits else "")
    return {"name": name, "kind": kind, "state": state, "size": size, "licence": licence}


@weights_app.command("pull", no_args_is_help=True)
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


@weights_app.command("import", no_args_is_help=True)
def import_weights(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", show_default=False, help="Checkpoints of any container."),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            show_default=False,
            autocompletion=suggestions.published_names,
            help="The entry that it is, or a name of your own. [default: recognised]",
        ),
    ] = None,
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
    """Add checkpoints that you have. Each is recognised by its tensors, whatever its name, and what
    inference needs is kept, as safetensors; the file itself is not changed.

    \b
    Examples:
      d2s weights import ~/Downloads/celeba_hq.ckpt
      d2s weights import EdgeModel_gen.pth InpaintingModel_gen.pth --as edgeconnect --yes
      d2s weights import runs/mine/refiner.safetensors --as mine
    """
    from d2s_cli.weights.manifest import manifest
    from d2s_cli.weights.store import file_sha256

    if sha256 is not None and len(files) > 1:
        raise UsageError("--sha256 is for one file", "import the files one by one")
    records: dict[str, Installed] = {}
    for path in files:
        if not path.is_file():
            raise WeightsError(f"no weights file at {path}")
        found = file_sha256(path)
        if sha256 is not None and found != sha256.lower():
            raise WeightsError(f"{path} has the SHA-256 {found}, not {sha256.lower()}")
        record = _import(path, name, found, licence, yes, force, quiet)
        records[record.name] = record
    for record in records.values():
        if missing := record.missing():
            say(f"{record.name} still lacks {', '.join(missing)}")
        else:
            guide = manifest()[record.name].guide if record.name in manifest() else ""
            say_unless(quiet, _how_to_use(record.name, record.kind, guide))


def _import(
    path: Path, name: str | None, sha256: str, licence: str, yes: bool, force: bool, quiet: bool
) -> Installed:
    from d2s_cli.weights.convert import choose_entry, inspect, own_kind, store_checkpoint
    from d2s_cli.weights.store import own_entry, read_record, remove_entry

    checkpoint = inspect(path)
    entry, file = choose_entry(checkpoint, sha256, name)
    record = own_entry(entry.name if entry else str(name), entry, own_kind(checkpoint), licence)
    target = file.stored_name if file else path.stem + ".safetensors"
    before = read_record(record.name)
    own_refiner = file is None and record.kind == "refiner"
    there = before is not None and (own_refiner or target in {f.name for f in before.files})
    if there and not force:
        raise UsageError(
            f"{record.name} is installed already",
            f"try: d2s weights import {path} --as {record.name} --force",
        )
    if entry is not None:
        say(_notice(entry))
        _accept([entry] if entry.limits else [], yes, "import", [str(path), "--as", entry.name])
    if there and own_refiner:
        remove_entry(record.name)
    published = bool(file and file.sha256 == sha256)
    record = store_checkpoint(checkpoint, record, target, path.name, sha256, published)
    say_unless(quiet, f"{path} is {checkpoint.about}; stored as {record.folder / target}")
    if file is not None and not published:
        what = "is not the published one" if file.sha256 else "is not known from elsewhere"
        say_unless(quiet, f"note: its SHA-256 {what}; it is remembered: {sha256}")
    return record


@weights_app.command("verify")
def verify_weights(names: Installables = None, quiet: opt.Quiet = False) -> None:
    """Check installed files against the SHA-256 that they had when they were put there. Exit 7 if
    one differs.

    \b
    Examples:
      d2s weights verify
      d2s weights verify lama && d2s inpaint photo.png -m m.png --guide lama
    """
    from d2s_cli.weights.store import damaged, installed, verify

    wrong = False
    for name, error in damaged().items() if not names else ():
        wrong = True
        print(f"{name}: {error.message}")
        say(f"  {error.hint}")
    for name in names or installed():
        record = _installed(name)
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
    if wrong:
        raise typer.Exit(CHECK_FAILED)


def _installed(name: str) -> Installed:
    from d2s_cli.weights.bundled import bundled_weights
    from d2s_cli.weights.store import how_to_get, read_record

    record = read_record(name)
    if record is None and name in bundled_weights():
        raise UsageError(f"{name} came with d2s", "try: d2s doctor, which sees whether it loads")
    if record is None:
        raise WeightsError(f"the weights {name} are not installed", how_to_get(name))
    return record


@weights_app.command("info", no_args_is_help=True)
def info(
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            show_default=False,
            autocompletion=suggestions.published_names,
            help="An entry, or a checkpoint that is not installed.",
        ),
    ],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List names, shapes and formats of the tensors.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Describe an entry or a file: what it is, licence, source, hashes, tensors. Nothing is run or
    installed.

    \b
    Examples:
      d2s weights info mat
      d2s weights info unknown.ckpt --tensors
    """
    from d2s_cli.weights.bundled import bundled_weights
    from d2s_cli.weights.store import read_record

    known = _known(target)
    paths = [bundled_weights()[target]] if target in bundled_weights() else []
    if known is not None and (record := read_record(target)) is not None:
        paths = record.paths()
    elif known is None and not paths:
        paths = [Path(target)]
    document: dict[str, Any] = {"schema": 1, **(known or {})}
    if paths:
        from d2s_cli.weights.convert import describe, inspect, tensor_lines

        checkpoints = [inspect(path) for path in paths]
        document["read"] = [describe(checkpoint) for checkpoint in checkpoints]
        if tensors:
            document["tensors"] = [line for c in checkpoints for line in tensor_lines(c.tensors)]
    print(json.dumps(document, indent=1) if as_json else "\n".join(_info_lines(document)))


def _known(name: str) -> dict[str, Any] | None:
    """What the manifest and the store say about a name."""
    from dataclasses import asdict

    from d2s_cli.weights.manifest import manifest
    from d2s_cli.weights.store import NAME, read_record

    record = read_record(name) if NAME.fullmatch(name) else None
    if name not in manifest() and record is None:
        return None
    known = asdict(manifest()[name]) if name in manifest() else {}
    return known | ({"installed": asdict(record)} if record else {})


def _info_lines(value: Any, indent: str = "") -> list[str]:
    """Nested tables and lists as indented lines; what is empty is left out."""
    lines = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value, 1):
        if item in ("", None, [], {}, ()) or key == "schema":
            continue
        if isinstance(item, dict) or (
            isinstance(item, list | tuple) and not all(isinstance(i, str) for i in item)
        ):
            lines += [f"{indent}{key}:", *_info_lines(item, indent + "  ")]
        elif isinstance(item, list | tuple):
            lines += [f"{indent}{key}:", *(f"{indent}  {text}" for text in item)]
        else:
            lines.append(f"{indent}{key}: {item}")
    return lines


@weights_app.command("where")
def where(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            show_default=False,
            autocompletion=suggestions.installed_names,
            help="An installed entry.",
        ),
    ] = None,
) -> None:
    """Print the weights folder, or the files of one entry, and nothing else. D2S_WEIGHTS_DIR names
    another folder.

    \b
    Examples:
      ls "$(d2s weights where)"
    """
    from d2s_cli.weights.bundled import bundled_weights
    from d2s_cli.weights.store import store_folder

    if name is None:
        print(store_folder())
        return
    bundled = bundled_weights().get(name)
    for path in [bundled] if bundled else _installed(name).paths():
        print(path)


@weights_app.command("remove", no_args_is_help=True)
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
