"""Progress of downloads, on stderr."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from d2s_cli.cli.console import PLAIN_EVERY, PROGRESS_MODES, say, size_text
from d2s_cli.errors import UsageError

if TYPE_CHECKING:
    from d2s_cli.weights.download import Progress


class TransferDisplay:
    """A bar on a terminal, else a line now and then, or a JSON object for each step.

    Args:
        mode: as of `console.RunDisplay`.
        quiet: show nothing.
    """

    def __init__(self, mode: str = "auto", quiet: bool = False) -> None:
        if mode not in PROGRESS_MODES:
            raise UsageError(f"unknown --progress {mode!r}", f"one of: {', '.join(PROGRESS_MODES)}")
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "plain"
        self.mode = "none" if quiet and mode != "json" else mode
        self.last = time.monotonic()
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> TransferDisplay:
        if self.mode == "bar":
            self.bar = _transfer_bar()
            self.task = self.bar.add_task("fetching", total=None)
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self.bar:
            self.bar.update(self.task, completed=progress.done, total=progress.total)
            return
        every = 1.0 if self.mode == "json" else PLAIN_EVERY
        now = time.monotonic()
        if self.mode == "none" or (now - self.last < every and progress.done != progress.total):
            return
        self.last = now
        if self.mode == "json":
            say(json.dumps(asdict(progress)))
        else:
            of = f" of {size_text(progress.total)}" if progress.total else ""
            say(f"{progress.name}: {size_text(progress.done)}{of}")


def _transfer_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
