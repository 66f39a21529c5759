"""`d2s guides`: what can fill a hole first, and whether it does so properly."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.console import say
from d2s_cli.errors import CHECK_FAILED

if TYPE_CHECKING:
    from d2s_cli.guides.catalogue import Listed
    from d2s_cli.guides.check import Check, Cost

guides_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="List guides, and test whether one keeps its contract.",
)

RANDOM = {True: "by seed", False: "no", None: "-"}

Name = Annotated[
    str,
    typer.Argument(
        help="As after --guide.",
        show_default=False,
        metavar="NAME",
        autocompletion=suggestions.guides,
    ),
]


@guides_app.command(name="list")
def show(as_json: opt.Json = False) -> None:
    """List guides, and what is missing for those that cannot be used here.

    SIZES is what a guide works at, RANDOM whether its result follows --seed, LICENCE that of its
    makers. A plug-in that does not load is named with the reason.

    \b
    Examples:
      d2s guides list
      # names of those that can be used
      d2s guides list --json | jq -r '.guides[] | select(.ready) | .name'
    """
    from d2s_cli.guides.catalogue import list_guides
    from d2s_cli.guides.registry import best_here, shadowed_plugins

    guides = list(list_guides())
    if as_json:
        rows = [asdict(guide) | {"ready": not guide.missing} for guide in guides]
        print(json.dumps({"schema": 1, "auto": best_here(), "guides": rows}, indent=1))
        return
    print(_table(guides))
    say(f"auto is {best_here()} here")
    if any(guide.missing == "no weights" for guide in guides):
        say("no weights: give them, --guide NAME --guide-weights FILE")
    for guide in guides:
        if guide.missing not in ("", "no weights"):
            say(f"{guide.name}: {guide.hint}")
    for plugin in shadowed_plugins():
        say(f"{plugin.origin} is skipped: d2s has a guide {plugin.name} itself")


def _table(guides: list[Listed]) -> str:
    rows = [("NAME", "KIND", "HERE", "SIZES", "RANDOM", "LICENCE")]
    for guide in guides:
        sizes, licence = guide.sizes or "-", guide.licence or "-"
        rows.append(
            (guide.name, guide.kind, guide.missing or "ready", sizes, RANDOM[guide.random], licence)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


@guides_app.command(name="test", no_args_is_help=True)
def check(
    name: Name,
    guide_weights: opt.GuideWeights = None,
    guide_option: opt.GuideOption = None,
    device: opt.Device = "auto",
    as_json: opt.Json = False,
) -> None:
    """Run a guide on small pictures: does it do as it should? Exit 7 if not.

    Known pixels stay bit for bit, odd and tiny sizes, empty and full holes work, a seed and a batch
    give the same result, and what the hole hides does not matter. Time and memory are said.

    \b
    Examples:
      d2s guides test telea
      d2s guides test lama --guide-weights best.ckpt
      # {image}, {mask} and {output} are 8-bit PNG files; white is the hole
      d2s guides test cmd:"mytool --in {image} --mask {mask} --out {output}"
    """
    from d2s_cli.guides.check import check_guide, measure, passed
    from d2s_cli.guides.registry import load_guide
    from d2s_cli.runtime import peak_memory

    options = opt.guide_options(guide_option)
    guide = load_guide(name, guide_weights or None, device, **options)
    for note in guide.notes:
        say(f"note: guide {guide.name}: {note}")
    checks = []
    for finding in check_guide(guide):
        checks.append(finding)
        if not as_json:
            print(f"{finding.level:8} {finding.name}: {finding.detail}", flush=True)
    fine = passed(checks)
    cost = measure(guide) if fine else None
    memory = peak_memory()
    if as_json:
        print(json.dumps(_document(guide.name, checks, cost, memory), indent=1))
    elif cost:
        print(_costs(cost, memory))
    if not fine:
        say(f"guide {guide.name} does not keep the contract; see the lines that begin with failed")
        raise typer.Exit(CHECK_FAILED)


def _costs(cost: Cost, memory: dict[str, int]) -> str:
    from d2s_cli.guides.check import TIMED

    text = f"time     {cost.later:.3g} s for {TIMED}x{TIMED}, the first time {cost.first:.3g} s"
    for where, size in memory.items():
        text += f"\nmemory   {size / 1e6:.0f} MB at the peak, {where}"
    return text


def _document(
    name: str, checks: list[Check], cost: Cost | None, memory: dict[str, int]
) -> dict[str, Any]:
    from d2s_cli.guides.check import passed

    return {
        "schema": 1,
        "guide": name,
        "passed": passed(checks),
        "checks": [asdict(check) for check in checks],
        "seconds": asdict(cost) if cost else None,
        "peak_bytes": memory,
    }
