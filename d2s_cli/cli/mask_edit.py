"""`d2s mask edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from d2s_cli.cli.console import say
from d2s_cli.cli.suggestions import JOINS, one_of

#: where the changes are noted in the order in which they were typed
TYPED = "d2s_cli.mask_edit"


def _in_order(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Options are processed in the order in which they were typed; keep it."""
    if value is not None and value is not False:
        context.meta.setdefault(TYPED, []).append((parameter.name, value))
    return value


def edit(
    context: typer.Context,
    masks: Annotated[
        list[Path], typer.Argument(help="Mask files.", show_default=False, metavar="MASKS...")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            show_default=False,
            help="File for one result, else folder.",
        ),
    ],
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            metavar="F",
            min=0.0,
            max=1.0,
            help="Grey level from which a pixel is hole. Masks are read with it, before the rest.",
        ),
    ] = 0.5,
    invert: Annotated[
        bool, typer.Option("--invert", callback=_in_order, help="Swap hole and rest.")
    ] = False,
    grow: Annotated[
        int | None,
        typer.Option(
            "--grow",
            callback=_in_order,
            metavar="PX",
            show_default=False,
            help="Grow the hole by PX pixels; negative shrinks it.",
        ),
    ] = None,
    fill_holes: Annotated[
        bool,
        typer.Option("--fill-holes", callback=_in_order, help="Fill what the hole encloses."),
    ] = False,
    drop_specks: Annotated[
        int | None,
        typer.Option(
            "--drop-specks",
            callback=_in_order,
            metavar="PX",
            min=1,
            show_default=False,
            help="Drop parts of fewer than PX pixels.",
        ),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            "--join",
            callback=_in_order,
            show_default=False,
            autocompletion=one_of(JOINS),
            help="Make one mask of all: union, intersect or subtract (the others from the first).",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            callback=_in_order,
            metavar="IMAGE",
            show_default=False,
            help="Resize to this image's size.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace files that exist already.")
    ] = False,
) -> None:
    """Edit masks. Operations run in the order given, each once; results are black and white.

    \b
    Examples:
      d2s mask edit m.png --invert --grow 4 -o m2.png
      # a mask that was saved as JPEG
      d2s mask edit m.jpg --threshold 0.5 --drop-specks 20 -o m.png
      d2s mask edit a.png b.png --join union -o ab.png
    """
    from d2s_cli.images.edit_masks import edit_masks

    for path in edit_masks(masks, context.meta.get(TYPED, []), output, threshold, force):
        say(f"wrote {path}")
