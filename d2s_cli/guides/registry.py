"""Every guide by name. Adding one: write its file, add its line here."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.guarded import GuardedGuide
from d2s_cli.guides.opencv import opencv_guide
from d2s_cli.guides.options import check_types
from d2s_cli.guides.patchmatch import patchmatch_available, patchmatch_guide
from d2s_cli.guides.plugins import Plugin, call_plugin, find_plugins
from d2s_cli.runtime import pick
from d2s_cli.weights.bundled import bundled_guide
from d2s_cli.weights.containers import checkpoints_in, for_guide_of, is_container, opened
from d2s_cli.weights.store import installed, installed_files

#: guides that need no weights
BUILT_IN: dict[str, Callable[[], Guide]] = {
    "patchmatch": patchmatch_guide,
    "telea": lambda: opencv_guide("telea"),
    "ns": lambda: opencv_guide("ns"),
}
#: guides read from a checkpoint: a module with `load(paths, device, **options) -> Guide`
FROM_WEIGHTS = {
    name: f"d2s_cli.guides.{name}"
    for name in (
        "neural",
        "lama",
        "mat",
        "wavepaint",
        "edgeconnect",
        "diffir",
        "m2s",
        "ddnm",
        "palette",
    )
}
#: guides that are named by what follows "PREFIX:", a file or a command: a module with
#: `load(text, device, **options) -> Guide`
BY_PREFIX = {
    "onnx": "d2s_cli.guides.onnx",
    "torchscript": "d2s_cli.guides.torchscript",
    "cmd": "d2s_cli.guides.command",
}
#: names that are no guide of their own: the best one here, and none at all
SPECIAL = ("auto", "none")

WeightsPaths = str | Path | Sequence[str | Path]


def guide_names() -> list[str]:
    """What --guide takes, apart from BY_PREFIX."""
    return ["auto", *BUILT_IN, *FROM_WEIGHTS, *plugins(), "none"]


def plugins() -> dict[str, Plugin]:
    """Guides of other packages by name; a name that d2s has itself stays d2s's."""
    return {name: plugin for name, plugin in find_plugins().items() if name not in _own_names()}


def shadowed_plugins() -> list[Plugin]:
    """Those that cannot be named, since d2s has the name itself."""
    return [plugin for name, plugin in find_plugins().items() if name in _own_names()]


def _own_names() -> set[str]:
    return {*BUILT_IN, *FROM_WEIGHTS, *SPECIAL}


def best_here() -> str:
    """What "auto" is on this machine."""
    return "patchmatch" if patchmatch_available() else "telea"


def load_guide(
    name: str, weights: WeightsPaths | None = None, device: str = "cpu", **options: Any
) -> Guide:
    """Load a guide.

    Args:
        name: see `guide_names` and BY_PREFIX ("onnx:FILE", ...); "auto" is the best one that is
            usable here.
        weights: checkpoint file, for guides that have one; several files or their folder for
            guides of several networks. None takes those that `d2s weights` installed.
        device: where its network runs.
        options: settings of the guide, by name.

    Raises:
        UsageError: unknown name or option, or weights for a guide that has none.
        WeightsError: the guide cannot be used here.
    """
    if name == "auto":
        name = best_here()
    if name in FROM_WEIGHTS:
        return _load_from_weights(name, weights, device, options)
    if name in BUILT_IN:
        _refuse_settings(name, weights, options)
        return BUILT_IN[name]()
    prefix, colon, text = name.partition(":")
    if colon and prefix in BY_PREFIX:
        load = importlib.import_module(BY_PREFIX[prefix]).load
        _refuse_settings(prefix, weights, {})
        _check_options(prefix, load, options)
        by_prefix: Guide = load(text, device, **options)
        return by_prefix
    if name in (others := plugins()):
        return _load_plugin(others[name], weights, device, options)
    if name == "none":
        raise UsageError("--guide none means no guide, so there is none to load")
    files = ", ".join(f"{prefix}:..." for prefix in BY_PREFIX)
    raise UsageError(f"unknown guide {name!r}", f"one of: {', '.join(guide_names())}, {files}")


def _refuse_settings(name: str, weights: WeightsPaths | None, options: dict[str, Any]) -> None:
    if weights is not None or options:
        given = ", ".join(["weights"] * (weights is not None) + list(options))
        raise UsageError(
            f"guide {name} takes no settings, but got: {given}",
            "name the guide that they are for with --guide",
        )


def _check_options(name: str, load: Callable[..., Guide], options: dict[str, Any]) -> None:
    known = list(inspect.signature(load).parameters)[2:]
    if unknown := sorted(options.keys() - set(known)):
        raise UsageError(
            f"guide {name} has no option {', '.join(unknown)}",
            f"it has: {', '.join(known) or 'none'}",
        )


def _load_from_weights(
    name: str, weights: WeightsPaths | None, device: str, options: dict[str, Any]
) -> Guide:
    load = importlib.import_module(FROM_WEIGHTS[name]).load
    _check_options(name, load, options)
    check_types(name, load, options)
    paths = files_here(name) if weights is None else checkpoint_files(weights, name)
    with _unpacked(paths, name) as files:
        guide: Guide = load(files, pick(device, "fp32").device, **options)
    guide.name, guide.files = name, tuple(dict.fromkeys((*paths, *guide.files)))
    return guide


@contextlib.contextmanager
def _unpacked(paths: Sequence[Path], guide: str) -> Iterator[list[Path]]:
    """Checkpoints in place of the zip files that hold them."""
    files: list[Path] = []
    with contextlib.ExitStack() as stack:
        for path in paths:
            if is_container(path):
                made = stack.enter_context(opened(path, for_guide_of(guide)))
                files += [file for _, file in made]
            else:
                files.append(path)
        yield files


def _load_plugin(
    plugin: Plugin, weights: WeightsPaths | None, device: str, options: dict[str, Any]
) -> Guide:
    paths = None if weights is None else checkpoint_files(weights)
    where = pick(device, "fp32").device
    guide = GuardedGuide(plugin, call_plugin(plugin, paths, where, options))
    guide.files = tuple(dict.fromkeys((*(paths or ()), *guide.files)))
    return guide


def files_here(name: str) -> list[Path]:
    """The weights of a guide that came with d2s, or that the user installed.

    Raises:
        WeightsError: neither.
    """
    return bundled_guide(name) or installed_files(name)


def checkpoint_files(weights: WeightsPaths, guide: str = "") -> list[Path]:
    """The files that a user means: those given, the checkpoints in a folder, or an installed entry.

    Args:
        weights: as typed.
        guide: for which they are: of a folder with more, its own are taken.

    Raises:
        WeightsError: nothing there.
    """
    for_folder = for_guide_of(guide) if guide else list
    given = [weights] if isinstance(weights, str | Path) else list(weights)
    paths: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            paths += [path / name for name in for_folder(checkpoints_in(path))]
        elif path.is_file():
            paths.append(path)
        elif str(path) in installed():
            paths += installed_files(str(path))
        else:
            names = ", ".join(installed()) or "none"
            raise WeightsError(f"no weights file at {path}", f"installed: {names}")
    return paths
