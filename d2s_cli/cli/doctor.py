"""`d2s doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2s_cli.cli.console import say
from d2s_cli.errors import CHECK_FAILED, UsageError


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only what loads no library: versions and folders.")
    ] = False,
    run: Annotated[
        bool, typer.Option("--run", help="Also restore a drawn picture, from file to file.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            show_default=False,
            help="Write it to a file too, without paths of your home folder or names.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a report that exists already.")
    ] = False,
) -> None:
    """Check versions, folders, devices, arithmetic, weights and guides. Each finding comes with
    what to do. Exit 0 if d2s can run, 7 if not.

    \b
    Examples:
      d2s doctor
      # with a whole run; --quick looks at versions and folders only
      d2s doctor --run
      # attach this to a bug report; it holds no picture, name or path from your home
      d2s doctor --report d2s-report.txt
    """
    from d2s_cli.doctor import as_text, can_run, examine, write_report

    if quick and run:
        raise UsageError("--quick and --run contradict each other", "leave one out")
    findings = []
    for finding in examine(quick, run):
        findings.append(finding)
        print(as_text([finding]), flush=True)
    if report is not None:
        write_report(findings, report, force)
        say(f"wrote {report}")
    if can_run(findings):
        say("nothing speaks against it" if quick else "d2s can run here")
    else:
        say("d2s cannot run here; see the lines that begin with error")
        raise typer.Exit(CHECK_FAILED)
