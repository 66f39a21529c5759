"""What a run tells whoever started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from d2s_cli.manifest import Entry


@dataclass
class Event:
    """What `report` is told.

    Attributes:
        kind: device, warning, note, done, copied, skipped or failed.
        text: one line for people.
        done, total: results so far, and of the whole run.
        entry: the manifest entry of a result.
    """

    kind: str
    text: str
    done: int = 0
    total: int = 0
    entry: Entry | None = None


Report = Callable[[Event], None]
