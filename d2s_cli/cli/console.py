"""What people read: progress, results and errors, all on stderr."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from d2s_cli.errors import SOME_FAILED, D2SError, UsageError

if TYPE_CHECKING:
    from d2s_cli.events import Event
    from d2s_cli.images.pairing import Plan
    from d2s_cli.manifest import Entry

PROGRESS_MODES = ("auto", "bar", "plain", "json", "none")

#: seconds between plain progress lines
PLAIN_EVERY = 10.0
SHOWN_FAILURES = 10


def say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Text in which control characters, which names of files may hold, do nothing to a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def print_error(error: D2SError) -> None:
    """The error and what to do, one screen."""
    say(f"error: {error.message}")
    for line in error.hint.splitlines():
        say(f"  {line}")


def print_json_error(error: D2SError) -> None:
    """The error for programs, on stdout."""
    found = {"code": error.exit_code, "message": error.message, "hint": error.hint}
    print(json.dumps({"schema": 1, "error": found}, indent=1))


def names_as_they_are() -> None:
    """Let stdout take names of files that are no text, as the bytes that they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


class RunDisplay:
    """Progress of a run on stderr.

    Args:
        mode: bar (for terminals), plain (a line every PLAIN_EVERY seconds), json (an object for
            each event), none, or auto: bar on a terminal, else plain.
        quiet: only warnings and failures.
        doing: what is under way, in one word.
    """

    def __init__(self, mode: str = "auto", quiet: bool = False, doing: str = "restoring") -> None:
        if mode not in PROGRESS_MODES:
            raise UsageError(f"unknown --progress {mode!r}", f"one of: {', '.join(PROGRESS_MODES)}")
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "plain"
        self.mode = "none" if quiet and mode != "json" else mode
        self.quiet = quiet
        self.began = self.last_line = time.monotonic()
        self.bar: Any = None
        self.task: Any = None
        if self.mode == "bar":
            self.bar = _progress_bar()
            self.task = self.bar.add_task(doing, total=None)

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
        if self.mode == "json":
            say(json.dumps(asdict(event)))
            return
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
        elif self.mode == "plain" and time.monotonic() - self.last_line >= PLAIN_EVERY:
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


def print_plan(plan: Plan, as_json: bool) -> int:
    """What would be done, on stdout; returns the exit code that the run would begin with."""
    results: list[dict[str, Any]] = [
        {
            "input": str(job.image),
            "mask": str(job.mask),
            "guide": str(job.guide) if job.guide else None,
            "output": str(job.output),
            "exists": job.output.exists(),
        }
        for job in plan.jobs
    ]
    failed = [{"input": str(image), "error": error.message} for image, error in plan.failed]
    if as_json:
        others = [str(path) for path in plan.others]
        document = {"schema": 1, "plan": results, "failed": failed, "left_out": others}
        print(json.dumps(document, indent=1))
    else:
        for row in results:
            guide = f" + {row['guide']}" if row["guide"] else ""
            there = "   (exists)" if row["exists"] else ""
            print(f"{row['input']} + {row['mask']}{guide} -> {row['output']}{there}")
        for image, error in plan.failed:
            print(f"{image}: {error.message}")
        for warning in plan.warnings():
            say(f"warning: {warning}")
        say(_plan_summary(plan))
    if not plan.failed:
        return 0
    return SOME_FAILED if plan.jobs else plan.failed[0][1].exit_code


def _plan_summary(plan: Plan) -> str:
    text = f"{len(plan.jobs)} to do"
    if plan.failed:
        text += f", {len(plan.failed)} cannot be done"
    size = sum(job.image.stat().st_size for job in plan.jobs if job.image.exists())
    where = plan.folder or Path()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    text += f"; {size_text(size)} of pictures, {size_text(free)} free at {where}"
    return text + ("; that may not be enough" if free < 2 * size else "")


def size_text(size: int | None) -> str:
    """A number of bytes for people."""
    if size is None:
        return "?"
    if size < 1e5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def print_summary(
    entries: list[Entry],
    seconds: float,
    left: int,
    quiet: bool,
    as_json: bool,
    paths: bool,
    path_end: str = "\n",
    stays: bool = True,
) -> int:
    """Say what became of the run and return the exit code.

    Args:
        entries: of the manifest.
        seconds: that the run took.
        left: results that an interrupted run did not come to.
        quiet: no summary.
        as_json, paths: what goes to stdout.
        path_end: what follows a printed path.
        stays: the files are there afterwards; else they go through a pipe, and have no names.
    """
    statuses = ("done", "copied", "skipped", "failed")
    counts = {status: sum(e["status"] == status for e in entries) for status in statuses}
    if as_json:
        print(json.dumps({"schema": 1, "counts": counts, "results": entries}, indent=1))
    elif paths:
        for entry in entries:
            if entry["status"] in ("done", "copied"):
                print(entry["output"]["path"], end=path_end)
    if not quiet:
        say(_summary(entries, counts, seconds, left, stays))
    failed = [e for e in entries if e["status"] == "failed"]
    if not failed:
        return 0
    if not quiet and len(entries) > 1:
        for entry in failed[:SHOWN_FAILURES]:
            say(f"  failed: {entry['input']['path']}: {entry['error']['message']}")
        if len(failed) > SHOWN_FAILURES:
            say(f"  and {len(failed) - SHOWN_FAILURES} more")
    elif len(entries) == 1:
        for line in failed[0]["error"]["hint"].splitlines():
            say(f"  {line}")
        return int(failed[0]["error"]["code"])
    return SOME_FAILED


def _summary(
    entries: list[Entry], counts: dict[str, int], seconds: float, left: int, stays: bool
) -> str:
    words = {"done": "restored", "copied": "copied (no hole)", "skipped": "skipped (there already)"}
    parts = [f"{n} {words.get(status, status)}" for status, n in counts.items() if n]
    if left:
        parts.append(f"{left} not begun (the same command goes on)")
    done = [e for e in entries if e["status"] == "done" and e["changed_outside"] is not None]
    if lossless := [e for e in done if e["lossless"]]:
        changed = sum(e["changed_outside"] for e in lossless)
        parts.append(f"{changed} pixels changed outside holes")
    if lossy := [e for e in done if not e["lossless"]]:
        most = max(e["changed_outside_max"] for e in lossy)
        mean = sum(e["changed_outside_mean"] for e in lossy) / len(lossy)
        parts.append(
            f"JPEG or WebP: known pixels moved by at most {most} of 255 levels, {mean:.2g} on"
            " average"
        )
    text = f"done: {', '.join(parts)}, {seconds:.1f} s"
    if len(entries) == 1 and counts["done"] + counts["copied"] == 1:
        if stays:
            text += f"\n  {entries[0]['output']['path']}"
        if counts["done"]:
            text += f"\n  {_what_was_done(entries[0])}"
    return text


def _what_was_done(entry: Entry) -> str:
    """How a single picture's holes were filled, so that nobody has to guess."""
    from d2s_cli.manifest import starts_of

    guide = entry["guide"].get("name") or entry["guide"]["path"]
    if entry.get("corrector"):
        guide = f"{guide}, corrected"
    if not any(entry["tk"]):
        if entry["settings"]["tk"] == 0:
            return f"guide {guide}, not refined"
        kept = "and not refined" if entry.get("corrector") else "left as it is"
        return f"guide {guide}, {kept}, which measured best here (--tk N refines it)"
    how = f"T_k {starts_of(entry)} in {entry['steps']} steps ({entry['sampler']})"
    text = f"guide {guide}, refined from {how}"
    return text + (", sharpened before" if entry["sharpened"] else "")
