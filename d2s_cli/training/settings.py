"""Settings of a run given as text, NAME=VALUE: every field of its configuration by name."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from d2s_cli.errors import UsageError

Config = TypeVar("Config")
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """The configuration with some fields changed.

    Args:
        config: a dataclass; its fields may be dataclasses themselves.
        settings: NAME=VALUE each, as "style=4", "sizes=128,256", "unet.dropout=0.1", "tk_max=none".

    Raises:
        UsageError: no such field, or no value of its type.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: NAME=VALUE is wanted", "as in --set style=4")
        config = _changed(config, name.strip().split("."), value.strip(), setting)
    return config


def _changed(config: Any, path: Sequence[str], value: str, setting: str) -> Any:
    kinds = get_type_hints(type(config))
    name, *rest = path
    if name not in kinds:
        raise UsageError(f"--set {setting}: there is no {name!r}", f"one of: {', '.join(kinds)}")
    now = getattr(config, name)
    if rest and not dataclasses.is_dataclass(now):
        raise UsageError(f"--set {setting}: {name} has no parts", f"{name}=VALUE sets it")
    if not rest and dataclasses.is_dataclass(now):
        parts = ", ".join(f"{name}.{field.name}" for field in dataclasses.fields(now))
        raise UsageError(f"--set {setting}: {name} has parts", f"one of: {parts}")
    new = _changed(now, rest, value, setting) if rest else _parsed(value, kinds[name], setting)
    try:
        return dataclasses.replace(config, **{name: new})
    except ValueError as error:
        raise UsageError(f"--set {setting}: {error}") from error


def _parsed(text: str, kind: Any, setting: str) -> Any:
    """Text as a value of a field's type: bool, int, float, str, tuples of these, or None."""
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() == "none":
            return None
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        values = tuple(_parsed(part.strip(), parts[0], setting) for part in text.split(","))
        if parts[-1] is not Ellipsis and len(values) != len(parts):
            raise UsageError(f"--set {setting}: {len(parts)} values are wanted, not {len(values)}")
        return values
    try:
        return TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"--set {setting}: {text!r} is no {kind.__name__}") from error
