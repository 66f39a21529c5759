"""Settings of guides that come from the command line: are they of the kind that the guide takes?"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any

from d2s_cli.errors import UsageError

#: how kinds are called; settings of other kinds come from Python, and are not looked at
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_types(guide: str, load: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Compare settings with the annotations of a guide's `load`.

    Raises:
        UsageError: one is of another kind.
    """
    hints = typing.get_type_hints(load)
    for name in options.keys() & hints.keys():
        value = options[name]
        kinds = set(typing.get_args(hints[name]) or [hints[name]])
        plain = kinds - {type(None)}
        if (
            not plain <= NAMES.keys()
            or type(value) in kinds
            or (float in kinds and type(value) is int)
        ):
            continue
        wanted = " or ".join(NAMES[kind] for kind in NAMES if kind in plain)
        raise UsageError(f"guide {guide}: {name} must be {wanted}, not {value!r}")
