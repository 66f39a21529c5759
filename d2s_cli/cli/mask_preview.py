"""`d2s mask preview`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli.console import say


def preview(
    image: Annotated[Path, typer.Argument(help="The image.", show_default=False, metavar="IMAGE")],
    mask: opt.Mask = None,
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
            metavar="FILE",
            show_default=False,
            help="Write a picture instead of showing a coarse one here.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a file that exists already.")
    ] = False,
) -> None:
    """Show the hole over the image, in the terminal or in a file.

    \b
    Examples:
      d2s mask preview photo.jpg -m m.png
      d2s mask preview photo.jpg -m m.png --polarity black --grow 3 -o look.png
    """
    from d2s_cli.images.masks import MaskSettings
    from d2s_cli.images.preview import as_text, photo_and_mask, write_preview

    names = tuple(mask_name or ())
    settings = MaskSettings(polarity, threshold, grow, mask_from, fit_mask, names)
    photo, read = photo_and_mask(image, mask, settings)
    for text in read.warnings:
        say(f"warning: {text}")
    for text in read.notes:
        say(f"note: {text}")
    if output is not None:
        write_preview(photo, read.hole, output, force)
        say(f"wrote {output}")
    else:
        columns = shutil.get_terminal_size().columns
        print(as_text(photo.rgb, read.hole, columns, color=_in_color()))
    say(f"hole: {read.hole.mean():.1%} of {photo.size[0]}x{photo.size[1]}")


def _in_color() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
