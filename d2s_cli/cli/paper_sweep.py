"""`d2s paper sweep`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import judging_options as judging
from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.console import RunDisplay, say, size_text
from d2s_cli.cli.interrupts import Interrupts
from d2s_cli.cli.suggestions import one_of
from d2s_cli.errors import SOME_FAILED, UsageError, WeightsError

if TYPE_CHECKING:
    from d2s_cli.paper.plan import Planned, Sweep
    from d2s_cli.paper.run import Outcome

SWEPT = "What is swept"


def sweep(
    pictures: Annotated[
        Path,
        typer.Argument(
            help="Whole pictures: folder, or list file (.txt). They are the truth too.",
            metavar="PICTURES",
            show_default=False,
        ),
    ],
    masks: Annotated[
        list[str],
        typer.Option(
            "--masks",
            "-m",
            metavar="NAME=FOLDER",
            show_default=False,
            help="Masks under the pictures' names. Repeat it: small=FOLDER and large=FOLDER are"
            " the paper's.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            show_default=False,
            help="For results, scores, figures and the table; a sweep that is there goes on.",
        ),
    ],
    guide: Annotated[
        list[str] | None,
        typer.Option(
            "--guide",
            "-g",
            rich_help_panel=SWEPT,
            metavar="NAME",
            show_default="mat, palette, lama, ddnm, diffir, edgeconnect, m2s, wavepaint",
            autocompletion=suggestions.guides,
            help="Repeat it: all are in the table, the first two in figure 3, the first in figures"
            " 4 and 6.",
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            rich_help_panel=SWEPT,
            metavar="NAME",
            show_default="all",
            autocompletion=one_of(suggestions.PAPER_PARTS),
            help="figure3, figure4, figure6 or table1. May be repeated.",
        ),
    ] = None,
    tk: Annotated[
        str,
        typer.Option(
            "--tk",
            "-t",
            rich_help_panel=SWEPT,
            metavar="RANGE",
            help="T_k, and T of whole tables: numbers and FROM-TO:BY, separated by commas.",
        ),
    ] = "100-500:50",
    table_steps: Annotated[
        str,
        typer.Option(
            "--table-steps", rich_help_panel=SWEPT, metavar="RANGE", help="T of figure 6."
        ),
    ] = "500,1000,1500,2000",
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            rich_help_panel=SWEPT,
            metavar="N",
            min=1,
            show_default=False,
            help="Take N pictures, the first by name.",
        ),
    ] = None,
    weights: opt.Weights = "d2s-base",
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            rich_help_panel=opt.REFINE,
            metavar="N",
            min=1,
            show_default="every step, as the paper",
            help="Denoising steps of a refinement at most.",
        ),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            rich_help_panel=opt.REFINE,
            autocompletion=one_of(suggestions.SAMPLERS),
            help="ddpm (posterior step), ddpm-beta (eq. 13), ddim, dpmpp or dpmpp-sde.",
        ),
    ] = "ddpm",
    inject: Annotated[
        bool,
        typer.Option(
            "--inject/--no-inject",
            rich_help_panel=opt.REFINE,
            help="Feed the guide in at the deepest features at every step (eq. 15 to 17).",
        ),
    ] = True,
    context: Annotated[
        int,
        typer.Option(
            "--context",
            rich_help_panel=opt.REFINE,
            metavar="PX",
            min=0,
            help="Surroundings of a hole that the network sees; with 256, all of a picture of 256"
            " x 256 at once, as in the paper.",
        ),
    ] = 256,
    seed: opt.Seed = 0,
    polarity: opt.Polarity = "white",
    metric: Annotated[
        list[str] | None,
        judging.metric_option(
            "fid, is, pids and uids if their network is here, frechet with --features; seam, psnr,"
            " ssim and l1"
        ),
    ] = None,
    plot: Annotated[
        list[str] | None,
        typer.Option(
            "--plot",
            rich_help_panel=judging.NUMBERS,
            metavar="NAME",
            show_default="fid, or the nearest to it that was computed",
            help="What the figures show, such as fid or psnr-hole. May be repeated.",
        ),
    ] = None,
    preset: judging.Preset = "mat",
    features: judging.Features = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    batch_size: opt.BatchSize = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "-n",
            help="Print every setting with its passes of the network, and do nothing.",
        ),
    ] = False,
    as_json: opt.Json = False,
    progress: opt.Progress = "auto",
    quiet: opt.Quiet = False,
) -> None:
    """Run the paper's experiments: each guide alone and refined from every T_k of several noise
    tables and from the start of short ones; draw figures 3, 4 and 6 and write Table 1.

    Results lie in OUTPUT/MASKS/GUIDE/SETTING with their scores; started again, a sweep goes on.
    What the weights or guides here cannot do is listed and left out.

    \b
    Examples:
      # what would be computed, with the paper's settings
      d2s paper sweep data/val -m small=data/small -m large=data/large -w palette -o sweep/ -n
      d2s paper sweep data/val -m small=data/small -m large=data/large -w palette -o sweep/
      # the table alone, for two guides
      d2s paper sweep data/val -m small=data/small -g mat -g lama --part table1 -w palette -o t1/
      # a small one with the bundled weights
      d2s paper sweep photos/ -m small=masks/ -g telea -g ns --steps 5 --limit 12 -o sweep/
    """
    from d2s_cli.images.masks import MaskSettings
    from d2s_cli.paper import plan as plans
    from d2s_cli.paper.report import check_drawn, write_report
    from d2s_cli.paper.run import run

    if wrong := check_drawn(plot or []):
        raise UsageError(
            f"unknown --plot {wrong[0]!r}", f"one of: {', '.join(suggestions.METRICS)}"
        )
    wanted = plans.Sweep(
        pictures,
        parse_masks(masks),
        output,
        tuple(guide or plans.GUIDES),
        tuple(part or plans.PARTS),
        parse_numbers(tk, "--tk"),
        parse_numbers(table_steps, "--table-steps"),
        limit,
        steps,
        {
            "weights": weights,
            "sampler": sampler,
            "inject": inject,
            "context": context,
            "seed": seed,
            "device": device,
            "precision": precision,
            "batch": batch_size,
            "mask_settings": MaskSettings(polarity=polarity, source="name"),
        },
        tuple(metric or ()),
        preset,
        features,
    )
    planned = plans.plan(wanted)
    if dry_run:
        _print_plan(wanted, planned, as_json)
        return
    if not planned.cells:
        raise WeightsError(
            f"no setting of this sweep can be run here: {next(iter(planned.blocked.values()))}",
            "try: d2s guides list",
        )
    with Interrupts() as interrupts, RunDisplay(progress, quiet, "sweeping") as display:
        outcomes = run(wanted, planned, display, interrupts.stopped)
        written = write_report(wanted, outcomes, plot or [])
    if as_json:
        print(json.dumps({"schema": 1, "settings": [_row(o) for o in outcomes]}, indent=1))
    if not quiet:
        _say_summary(outcomes, written)
    failed = any(outcome.status == "failed" for outcome in outcomes)
    raise typer.Exit(interrupts.exit_code() or (SOME_FAILED if failed else 0))


def parse_masks(given: Sequence[str]) -> dict[str, Path]:
    """NAME=FOLDER, each name once.

    Raises:
        UsageError: not of that form.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise UsageError(f"--masks takes NAME=FOLDER, not {text!r}", f"try: small={text}")
        if name in found:
            raise UsageError(f"--masks {name} is given twice")
        found[name] = Path(folder)
    return found


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """`100-500:50,800` to numbers, rising, each once.

    Raises:
        UsageError: not of that form, or nothing.
    """
    found: set[int] = set()
    try:
        for piece in text.split(","):
            span, _, by = piece.partition(":")
            low, dash, high = span.partition("-")
            last = int(high) if dash else int(low)
            found |= set(range(int(low), last + 1, int(by or 1)))
    except ValueError:
        found = set()
    if not found:
        raise UsageError(f"cannot read {option} {text!r}", f"for example: {option} 100-500:50")
    return tuple(sorted(found))


def _print_plan(sweep: Sweep, planned: Planned, as_json: bool) -> None:
    count = len(planned.pictures)
    rows: list[dict[str, Any]] = []
    for cell in sweep.cells():
        why = planned.blocked.get(cell, "")
        passes = 0 if why else sweep.evaluations(cell) * count
        rows.append({"place": cell.place, "passes": passes, "why": why})
    total, cells = sum(row["passes"] for row in rows), len(planned.cells)
    if as_json:
        print(json.dumps({"schema": 1, "pictures": count, "passes": total, "plan": rows}, indent=1))
        return
    for row in rows:
        print(f"{row['place']}: {row['why'] or str(row['passes']) + ' passes'}")
    size = sum(path.stat().st_size for path in planned.pictures) * cells
    say(
        f"{cells} settings, {len(planned.blocked)} cannot be had here; {count} pictures each;"
        f" {total:,} passes of the refiner for a window in each picture; results of about"
        f" {size_text(size)}"
    )


def _row(outcome: Outcome) -> dict[str, Any]:
    row = {"place": outcome.cell.place, "status": outcome.status, "why": outcome.why}
    return row | {"pictures": outcome.count, "scores": outcome.scores}


def _say_summary(outcomes: Sequence[Outcome], written: Sequence[Path]) -> None:
    words = {"blocked": "not possible here", "open": "not begun (the same command goes on)"}
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    say("settings: " + ", ".join(f"{n} {words.get(s, s)}" for s, n in counts.items()))
    for why in dict.fromkeys(o.why for o in outcomes if o.status in ("blocked", "failed")):
        number = sum(o.why == why for o in outcomes)
        say(f"  {number} left out: {why}")
    for path in written:
        say(f"  {path}")
