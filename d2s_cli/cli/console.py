"""What people read: progress, results and errors, all on stderr."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from d2s_cli.errors import SOME_FAILED, D2SError

if TYPE_CHECKING:
    from d2s_cli.engine import Event

#: seconds between plain progress lines
PLAIN_EVERY = 10.0
SHOWN_FAILURES = 10


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_error(error: D2SError) -> None:
    """The error and what to do, one screen."""
    say(f"error: {error.message}")
    for line in error.hint.splitlines():
        say(f"  {line}")


class RunDisplay:
    """Progress of a run: a bar with time left on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.began = self.last_line = time.monotonic()
        self.bar: Any = None
        self.task: Any = None
        if not quiet and sys.stderr.isatty():
            self.bar = _progress_bar()
            self.task = self.bar.add_task("restoring", total=None)

    def __enter__(self) -> RunDisplay:
        if self.bar:
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

    def __call__(self, event: Event) -> None:
        """The engine's `report`."""
        if event.kind == "failed":
            say(f"failed: {event.text}")
        elif event.kind == "warning":
            say(f"warning: {event.text}")
        elif event.kind == "note" and not self.quiet:
            say(f"note: {event.text}")
        elif event.kind == "device" and not self.quiet:
            say(event.text)
        if not event.total:
            return
        if self.bar:
            self.bar.update(self.task, completed=event.done, total=event.total)
        elif not self.quiet and time.monotonic() - self.last_line >= PLAIN_EVERY:
            self.last_line = time.monotonic()
            say(f"{event.done}/{event.total} done, {self._left(event)} left")

    def _left(self, event: Event) -> str:
        seconds = (time.monotonic() - self.began) / event.done * (event.total - event.done)
        return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _progress_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def print_summary(
    entries: list[dict[str, Any]], seconds: float, quiet: bool, as_json: bool, paths: bool
) -> int:
    """Say what became of the run and return the exit code."""
    counts = {
        status: sum(e["status"] == status for e in entries)
        for status in ("done", "copied", "skipped", "failed")
    }
    if as_json:
        print(json.dumps({"schema": 1, "counts": counts, "results": entries}, indent=1))
    elif paths:
        for entry in entries:
            for path in entry.get("outputs", []):
                print(path)
    if not quiet:
        say(_summary(entries, counts, seconds))
    failed = [e for e in entries if e["status"] == "failed"]
    if not failed:
        return 0
    if not quiet and len(entries) > 1:
        for entry in failed[:SHOWN_FAILURES]:
            say(f"  failed: {entry['input']}: {entry['error']['message']}")
    elif len(entries) == 1:
        for line in failed[0]["error"]["hint"].splitlines():
            say(f"  {line}")
        return int(failed[0]["error"]["code"])
    return SOME_FAILED


def _summary(entries: list[dict[str, Any]], counts: dict[str, int], seconds: float) -> str:
    words = {"done": "restored", "copied": "copied (no hole)", "skipped": "skipped (exist already)"}
    parts = [f"{n} {words.get(status, status)}" for status, n in counts.items() if n]
    lossless = [e for e in entries if e["status"] == "done" and e["lossless"]]
    if lossless and all(e["changed_outside"] is not None for e in lossless):
        changed = sum(e["changed_outside"] for e in lossless)
        parts.append(f"{changed} pixels changed outside holes")
    lossy = [e for e in entries if e["status"] == "done" and not e["lossless"]]
    if lossy and all(e["changed_outside_max"] is not None for e in lossy):
        most = max(e["changed_outside_max"] for e in lossy)
        parts.append(f"JPEG or WebP: known pixels moved by at most {most} of 255 levels")
    text = f"done: {', '.join(parts)}, {seconds:.1f} s"
    single = [e for e in entries if e["status"] in ("done", "copied")]
    if len(entries) == 1 and single:
        text += f"\n  {', '.join(single[0]['outputs'])}"
    return text
