"""Every guide by name. Adding one: write its file, add its line here."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.opencv import opencv_guide
from d2s_cli.guides.patchmatch import patchmatch_available, patchmatch_guide
from d2s_cli.runtime import pick
from d2s_cli.weights.bundled import bundled_guide
from d2s_cli.weights.store import installed_files

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
#: names that are no guide of their own: the best one here, and none at all
SPECIAL = ("auto", "none")

WeightsPaths = str | Path | Sequence[str | Path]


def guide_names() -> list[str]:
    """What --guide takes."""
    return ["auto", *BUILT_IN, *FROM_WEIGHTS, "none"]


def load_guide(
    name: str, weights: WeightsPaths | None = None, device: str = "cpu", **options: Any
) -> Guide:
    """Load a guide.

    Args:
        name: see `guide_names`; "auto" is the best one that is usable here.
        weights: checkpoint file, for guides that have one; several files or their folder for
            guides of several networks. None takes those that `d2s weights` installed.
        device: where its network runs.
        options: settings of the guide, by name.

    Raises:
        UsageError: unknown name or option, or weights for a guide that has none.
        WeightsError: the guide cannot be used here.
    """
    if name == "auto":
        name = "patchmatch" if patchmatch_available() else "telea"
    if name in FROM_WEIGHTS:
        return _load_from_weights(name, weights, device, options)
    if name not in BUILT_IN:
        raise UsageError(f"unknown guide {name!r}", f"one of: {', '.join(guide_names())}")
    if weights is not None or options:
        given = ", ".join(["weights"] * (weights is not None) + list(options))
        raise UsageError(f"guide {name} takes no settings, but got: {given}")
    return BUILT_IN[name]()


def _load_from_weights(
    name: str, weights: WeightsPaths | None, device: str, options: dict[str, Any]
) -> Guide:
    load = importlib.import_module(FROM_WEIGHTS[name]).load
    known = list(inspect.signature(load).parameters)[2:]
    if unknown := sorted(options.keys() - set(known)):
        raise UsageError(
            f"guide {name} has no option {', '.join(unknown)}",
            f"it has: {', '.join(known) or 'none'}",
        )
    if weights is None:
        paths = bundled_guide(name) or installed_files(name)
    else:
        paths = checkpoint_files(weights)
    guide: Guide = load(paths, pick(device, "fp32").device, **options)
    guide.name = name
    return guide


def checkpoint_files(weights: WeightsPaths) -> list[Path]:
    """The files that a user means: those given, or all checkpoints in a folder.

    Raises:
        WeightsError: nothing there.
    """
    given = [weights] if isinstance(weights, str | Path) else list(weights)
    paths: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in CHECKPOINT_SUFFIXES)
            if not inside:
                raise WeightsError(f"no checkpoint in {path}", f"looked for {CHECKPOINT_SUFFIXES}")
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            raise WeightsError(f"no weights file at {path}")
    return paths


CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".pkl")
