"""Guides of other packages, registered in the entry-point group "d2s.guides".

An entry point names a callable that returns a Guide. It is called with those of `weights` (list of
paths) and `device` (torch device) that it has parameters for, and with the user's options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from d2s_cli.errors import D2SError, UsageError, WeightsError

GROUP = "d2s.guides"


@dataclass(frozen=True)
class Plugin:
    """A name that other packages registered.

    Attributes:
        name: as typed after --guide.
        entries: one, unless packages quarrel about the name.
    """

    name: str
    entries: tuple[EntryPoint, ...]

    @property
    def origin(self) -> str:
        """The package and its version, or several."""
        dists = [entry.dist for entry in self.entries]
        return " and ".join(f"{d.name} {d.version}" if d else "unknown" for d in dists)

    def factory(self) -> Callable[..., Any]:
        """Import what was registered.

        Raises:
            WeightsError: that fails, or it is nothing that can be called.
        """
        if len(self.entries) > 1:
            raise WeightsError(
                f"guide {self.name} is registered by {self.origin}", "uninstall all but one"
            )
        try:
            found = self.entries[0].load()
        except Exception as error:  # other people's code may raise anything when imported
            raise self.failure("does not load", error) from error
        if not callable(found):
            raise WeightsError(
                f"guide {self.name} of {self.origin} is no callable: {self.entries[0].value}"
            )
        registered: Callable[..., Any] = found
        return registered

    def failure(self, what: str, error: Exception) -> WeightsError:
        """An error of somebody else's code with the names of guide and package."""
        reason = str(error).strip().partition("\n")[0]
        return WeightsError(
            f"guide {self.name} of {self.origin} {what}: {type(error).__name__}: {reason}",
            "this is for the maker of that package; d2s itself is fine",
        )


def find_plugins() -> dict[str, Plugin]:
    """All of them by name, nothing imported yet."""
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=GROUP):
        others = found[entry.name].entries if entry.name in found else ()
        found[entry.name] = Plugin(entry.name, (*others, entry))
    return dict(sorted(found.items()))


def call_plugin(
    plugin: Plugin, weights: Sequence[Path] | None, device: Any, options: dict[str, Any]
) -> Any:
    """What the registered callable returns.

    Raises:
        UsageError: options or weights that it does not take.
        WeightsError: it does not load, or fails.
    """
    factory = plugin.factory()
    given = dict(options)
    parameters = _parameters(factory)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [
        n for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if weights is not None and "weights" not in known:
        raise UsageError(f"guide {plugin.name} takes no weights")
    own = [name for name in known if name not in ("weights", "device")]
    if not takes_all and (unknown := sorted(given.keys() - set(own))):
        raise UsageError(
            f"guide {plugin.name} has no option {', '.join(unknown)}",
            f"it has: {', '.join(own) or 'none'}",
        )
    given |= {k: v for k, v in (("weights", weights), ("device", device)) if k in known}
    try:
        return factory(**given)
    except D2SError:
        raise
    except Exception as error:  # as above
        raise plugin.failure("cannot be used", error) from error


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return {}  # some compiled callables do not say
