"""`d2s weights list`, `info` and `where`: what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.console import size_text
from d2s_cli.cli.suggestions import one_of
from d2s_cli.errors import UsageError, WeightsError


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
        if not paths[0].exists():
            raise WeightsError(f"no weights are called {target}", "try: d2s weights list")
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
        within = item if isinstance(item, list | tuple) else ()
        if isinstance(item, dict) or any(isinstance(i, dict | list | tuple) for i in within):
            lines += [f"{indent}{key}:", *_info_lines(item, indent + "  ")]
        elif within and not all(isinstance(i, str) for i in within):
            lines.append(f"{indent}{key}: {', '.join(map(str, within))}")
        elif within:
            lines += [f"{indent}{key}:", *(f"{indent}  {text}" for text in item)]
        else:
            lines.append(f"{indent}{key}: {item}")
    return lines


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
    from d2s_cli.weights.store import installed_entry, store_folder

    if name is None:
        print(store_folder())
        return
    bundled = bundled_weights().get(name)
    for path in [bundled] if bundled else installed_entry(name).paths():
        print(path)
