"""What `d2s inpaint` and `d2s refine` have in common: plan, run, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2s_cli.cli.console import RunDisplay, print_plan, print_summary
from d2s_cli.cli.interrupts import Interrupts
from d2s_cli.cli.pipes import Pipes
from d2s_cli.errors import UsageError

if TYPE_CHECKING:
    from d2s_cli.images.selection import Selection


@dataclass(frozen=True)
class Saying:
    """What is printed, and where: `progress` and `quiet` on stderr, the others on stdout; `null`
    ends paths with NUL."""

    progress: str
    quiet: bool
    as_json: bool
    print_paths: bool
    null: bool = False


def restore(
    inputs: list[Path],
    mask: Path | None,
    output: Path | None,
    guide_outputs: Path | None,
    recursive: bool,
    selection: Selection,
    dry_run: bool,
    saying: Saying,
    settings: dict[str, Any],
) -> int:
    """Plan the run and carry it out, or print the plan; returns the exit code."""
    from d2s_cli.images.pairing import make_plan

    began = time.monotonic()
    with Pipes(inputs, output) as pipes, Interrupts() as interrupts:
        if pipes.to_stdout and int(settings["samples"]) > 1:
            raise UsageError("-o - writes one picture, not --samples", "try: -o FILE")
        plan = make_plan(
            pipes.inputs,
            mask,
            pipes.output,
            guide_outputs,
            recursive,
            settings["format"],
            settings["mask_settings"].source,
            settings["mask_settings"].names,
            selection,
        )
        if dry_run:
            return print_plan(plan, saying.as_json)
        with RunDisplay(saying.progress, saying.quiet) as display:
            from d2s_cli.engine import carry_out

            entries = carry_out(plan, display, interrupts.stopped, settings)
        results = len(plan.failed) + len(plan.jobs) * int(settings["samples"])
        code = print_summary(
            entries,
            time.monotonic() - began,
            results - len(entries),
            saying.quiet,
            saying.as_json and not pipes.to_stdout,
            saying.print_paths and not pipes.to_stdout,
            "\0" if saying.null else "\n",
            not pipes.to_stdout,
        )
        return interrupts.exit_code() or code
