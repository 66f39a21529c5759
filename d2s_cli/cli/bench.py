"""`d2s bench`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.suggestions import one_of

if TYPE_CHECKING:
    from d2s_cli.bench.report import Section


def bench(
    part: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="NAME",
            show_default="all",
            autocompletion=one_of(suggestions.BENCH_PARTS),
            help="network (against bare convolutions), refine (one window, against the published"
            " way of computing), photos (whole files). Can be given several times.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases and runs.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="More: 64 windows at a time, 50 megapixels.")
    ] = False,
    guide: opt.Guide = "telea",
    weights: opt.Weights = "d2s-base",
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    as_json: opt.Json = False,
) -> None:
    """Measure how fast d2s is on this machine, and how far from what the chip allows. Ratios
    within one run say more than seconds: a busy machine slows all rows alike.

    \b
    Examples:
      d2s bench --quick
      d2s bench --part refine --device cuda
      d2s bench --full --json > bench.json
    """
    from d2s_cli.bench import report
    from d2s_cli.diffusion.loading import load_refiner
    from d2s_cli.errors import UsageError
    from d2s_cli.recipe import Settings
    from d2s_cli.runtime import pick

    parts = tuple(part or suggestions.BENCH_PARTS)
    if unknown := sorted(set(parts) - set(suggestions.BENCH_PARTS)):
        raise UsageError(
            f"unknown part {unknown[0]!r}", f"one of: {', '.join(suggestions.BENCH_PARTS)}"
        )
    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    extent = report.QUICK if quick else report.FULL if full else report.Extent()
    refiner = load_refiner(weights, compute=pick(device, precision))
    settings = Settings(
        guide=guide, weights=weights, device=device, precision=precision, if_exists="overwrite"
    )
    about = report.machine(refiner)
    sections = []
    if not as_json:
        print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    for section in report.run_bench(refiner, settings, extent, parts):
        sections.append(dataclasses.asdict(section))
        if not as_json:
            print("\n" + as_markdown(section), flush=True)
    if as_json:
        print(json.dumps({"machine": about, "sections": sections}, indent=2))


def as_markdown(section: Section) -> str:
    """A section as a Markdown table."""
    lines = [f"### {section.title}", "", *(_line(cells) for cells in (section.columns,))]
    lines.append(_line(tuple("---" for _ in section.columns)))
    return "\n".join(lines + [_line(row) for row in section.rows])


def _line(cells: tuple[object, ...]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
