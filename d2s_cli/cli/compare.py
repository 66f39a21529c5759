"""`d2s compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli.console import say
from d2s_cli.errors import CHECK_FAILED, UsageError

if TYPE_CHECKING:
    from d2s_cli.images.compare import Comparison

OUT, CHECKS = "Output", "Checks"


def compare(
    before: Annotated[
        Path, typer.Argument(help="The original, or a folder of them.", metavar="BEFORE")
    ],
    after: Annotated[
        Path, typer.Argument(help="The result, or a folder of results.", metavar="AFTER")
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            "-m",
            metavar="PATH",
            show_default=False,
            help="Mask or folder of masks, to tell inside from outside. Where none is found, every"
            " pixel counts as outside.",
        ),
    ] = None,
    recursive: opt.Recursive = False,
    mask_from: opt.MaskFrom = "auto",
    polarity: opt.Polarity = "white",
    threshold: opt.Threshold = 0.5,
    grow: opt.Grow = 0,
    fit_mask: opt.FitMask = "error",
    mask_name: opt.MaskName = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel=OUT,
            metavar="PATH",
            show_default=False,
            help="Write a sheet: before, after and difference in a row. A folder for folders.",
        ),
    ] = None,
    slider: Annotated[
        Path | None,
        typer.Option(
            "--slider",
            rich_help_panel=OUT,
            metavar="FILE.html",
            show_default=False,
            help="Write one HTML file with both pictures inside and a divider to drag.",
        ),
    ] = None,
    difference: Annotated[
        Path | None,
        typer.Option(
            "--difference",
            rich_help_panel=OUT,
            metavar="FILE.png",
            show_default=False,
            help="Write a map of the difference; red is outside the hole.",
        ),
    ] = None,
    gain: Annotated[
        float,
        typer.Option("--gain", rich_help_panel=OUT, metavar="F", help="Brighten differences."),
    ] = 8.0,
    max_side: Annotated[
        int,
        typer.Option(
            "--max-side", rich_help_panel=OUT, metavar="PX", min=16, help="Size of a sheet's panel."
        ),
    ] = 1024,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", rich_help_panel=OUT, help="Replace files that exist already."
        ),
    ] = False,
    fail_if_changed: Annotated[
        bool,
        typer.Option(
            "--fail-if-changed",
            rich_help_panel=CHECKS,
            help="Exit 7 when a pixel outside the hole differs.",
        ),
    ] = False,
    tolerance: Annotated[
        int,
        typer.Option(
            "--tolerance",
            rich_help_panel=CHECKS,
            metavar="LEVELS",
            min=0,
            help="Differences up to this count as none, for lossy files.",
        ),
    ] = 0,
    as_json: opt.Json = False,
) -> None:
    """Put a result next to its original, and count the pixels that changed outside the hole.
    Files or folders; in folders, results are matched by name. Writes nothing unless asked.

    \b
    Examples:
      d2s compare photo.png photo_d2s.png -m m.png -o sheet.png
      d2s compare photo.png photo_d2s.png --slider look.html
      # exit 7 if a pixel outside a hole changed
      d2s compare photos/ photos_d2s/ --mask masks/ --fail-if-changed
    """
    from d2s_cli.images import compare as comparing
    from d2s_cli.images.masks import MaskSettings

    names = tuple(mask_name or ())
    settings = MaskSettings(polarity, threshold, grow, mask_from, fit_mask, names)
    pairs = comparing.pair_results(before, after, recursive, names)
    if before.is_dir() and (slider or difference):
        raise UsageError("--slider and --difference take two files", "try: --output FOLDER")
    pictures = [
        comparing.Pictures(_sheet_path(output, image, below), slider, difference, gain, max_side)
        for image, _, below in pairs
    ]
    inputs = [path for image, result, _ in pairs for path in (image, result)]
    comparing.check_pictures(pictures, inputs, force)
    results = []
    for (image, result, below), wanted in zip(pairs, pictures, strict=True):
        one = comparing.compare(image, result, mask, settings, below)
        results.append(_entry(one, tolerance))
        if not as_json:
            print(_line(results[-1]))
        for note in one.notes:
            say(f"note: {note}")
        for path in comparing.write_pictures(one, wanted):
            say(f"wrote {path}")
    if as_json:
        print(json.dumps({"schema": 1, "results": results}, indent=1))
    if fail_if_changed and any(entry["changed_outside"] for entry in results):
        raise typer.Exit(CHECK_FAILED)


def _sheet_path(output: Path | None, image: Path, below: Path | None) -> Path | None:
    if output is None or below is None:
        return output
    return output / image.relative_to(below).with_suffix(".png")


def _entry(one: Comparison, tolerance: int) -> dict[str, Any]:
    return {
        "before": str(one.before.path),
        "after": str(one.after.path),
        "mask": str(one.mask) if one.mask else None,
        "hole_share": round(float(one.hole.mean()), 6),
        "peak": one.peak,
        **one.counts(tolerance),
    }


def _line(entry: dict[str, Any]) -> str:
    text = (
        f"{entry['before']} -> {entry['after']}: {entry['changed_outside']} pixels changed"
        f" {'outside the hole' if entry['mask'] else 'in all'}"
    )
    if entry["largest_outside"]:
        text += f", by at most {entry['largest_outside']} of {entry['peak']}"
    if entry["mask"]:
        text += f"; {entry['changed_inside']} inside"
    return text
