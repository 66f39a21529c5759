"""`d2s mask check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli.console import say
from d2s_cli.errors import CHECK_FAILED

if TYPE_CHECKING:
    from d2s_cli.images.check_masks import PairReport

Images = Annotated[
    list[Path],
    typer.Argument(help="Images and folders.", show_default=False, metavar="IMAGES..."),
]


def check(
    images: Images,
    mask: opt.Mask = None,
    recursive: opt.Recursive = False,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    mask_from: opt.MaskFrom = "auto",
    polarity: opt.Polarity = "white",
    threshold: opt.Threshold = 0.5,
    fit_mask: opt.FitMask = "error",
    mask_name: opt.MaskName = None,
    max_hole: Annotated[
        float,
        typer.Option(
            "--max-hole", metavar="PCT", min=0, max=100, help="Warn above this share of the image."
        ),
    ] = 60,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings also make the exit code 7.")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Pair images with masks and report what would go wrong, without loading a model: missing,
    unreadable, mis-sized, inverted, empty, full, very large and noisy masks. Exit 7 if there is a
    problem.

    \b
    Examples:
      d2s mask check photos/ --mask masks/
      # a list for a program
      d2s mask check photos/ --json | jq -r '.problems[].image'
    """
    from d2s_cli.images.check_masks import check_masks
    from d2s_cli.images.masks import MaskSettings

    settings = MaskSettings(polarity, threshold, 0, mask_from, fit_mask, tuple(mask_name or ()))
    selection = opt.selection(include, exclude, limit)
    reports = check_masks(images, mask, recursive, settings, max_hole / 100, selection)
    problems = sum(report.has("problem") for report in reports)
    warnings = sum(report.has("warning") for report in reports)
    if as_json:
        print(json.dumps(_document(reports), indent=1))
    else:
        for report in reports:
            if not quiet or report.has("problem", "warning"):
                print(_lines(report))
    if not quiet:
        say(f"checked {len(reports)}: {problems} with problems, {warnings} with warnings")
    if problems or (strict and warnings):
        raise typer.Exit(CHECK_FAILED)


def _lines(report: PairReport) -> str:
    state = "ok"
    if report.has("problem"):
        state = "problem"
    elif report.has("warning"):
        state = "warning"
    line = f"{report.image}: {state}"
    if report.mask is not None:
        line += f", mask {report.mask}"
    if report.hole_share is not None:
        parts = "1 part" if report.parts == 1 else f"{report.parts} parts"
        line += f", hole {report.hole_share:.1%} in {parts}"
    for finding in report.findings:
        line += f"\n  {finding.level}: {finding.text}"
        line += "".join(f"\n    {hint}" for hint in finding.hint.splitlines())
    return line


def _document(reports: list[PairReport]) -> dict[str, Any]:
    """What --json prints: every pair, and apart from them each finding of a kind."""
    document: dict[str, Any] = {"schema": 1, "pairs": [], "problems": [], "warnings": []}
    for report in reports:
        names = {"image": str(report.image), "mask": str(report.mask) if report.mask else None}
        document["pairs"].append(asdict(report) | names)
        for finding in report.findings:
            if finding.level != "note":
                document[f"{finding.level}s"].append(names | asdict(finding))
    return document
