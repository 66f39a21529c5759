"""Every guide by name. Adding one: write its file, add its line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from d2s_cli.errors import UsageError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.opencv import opencv_guide
from d2s_cli.guides.patchmatch import patchmatch_available, patchmatch_guide

#: guides that need no weights
BUILT_IN: dict[str, Callable[[], Guide]] = {
    "patchmatch": patchmatch_guide,
    "telea": lambda: opencv_guide("telea"),
    "ns": lambda: opencv_guide("ns"),
}
#: names that are no guide of their own: the best one here, and none at all
SPECIAL = ("auto", "none")


def guide_names() -> list[str]:
    """What --guide takes."""
    return ["auto", *BUILT_IN, "none"]


def load_guide(
    name: str, weights: str | Path | None = None, device: str = "cpu", **options: Any
) -> Guide:
    """Load a guide.

    Args:
        name: see `guide_names`; "auto" is the best one that is usable here.
        weights: checkpoint file, for guides that have one.
        device: where its network runs.
        options: settings of the guide, by name.

    Raises:
        UsageError: unknown name, or weights for a guide that has none.
        WeightsError: the guide cannot be used here.
    """
    if name == "auto":
        name = "patchmatch" if patchmatch_available() else "telea"
    if name not in BUILT_IN:
        raise UsageError(f"unknown guide {name!r}", f"one of: {', '.join(guide_names())}")
    if weights is not None or options:
        given = ", ".join(["weights"] * (weights is not None) + list(options))
        raise UsageError(f"guide {name} takes no settings, but got: {given}")
    return BUILT_IN[name]()
