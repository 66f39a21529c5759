"""`d2s mask make`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli.console import say
from d2s_cli.cli.mask_check import Images
from d2s_cli.cli.suggestions import MAKE_FROM, MASK_KINDS, one_of
from d2s_cli.errors import SOME_FAILED, InputError

RANDOM = "Random masks"


def make(
    images: Images,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            show_default=False,
            autocompletion=one_of(MAKE_FROM),
            help="alpha (transparent is hole), color=#RRGGBB, diff (against --with), or random.",
        ),
    ],
    other: Annotated[
        Path | None,
        typer.Option(
            "--with",
            metavar="PATH",
            show_default=False,
            help="The other image, or folder of images of the same names, for diff.",
        ),
    ] = None,
    threshold: Annotated[
        int,
        typer.Option(
            "--threshold",
            metavar="LEVELS",
            min=0,
            max=255,
            help="By how much a channel may differ, of 255: from the color, or before diff counts.",
        ),
    ] = 8,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            rich_help_panel=RANDOM,
            autocompletion=one_of(MASK_KINDS),
            help="irregular-thin, irregular-medium, irregular-thick (LaMa's), mat-large, mat-small"
            " (MAT's), box, scratches or mix.",
        ),
    ] = "irregular-medium",
    cover: Annotated[
        str | None,
        typer.Option(
            "--cover",
            rich_help_panel=RANDOM,
            metavar="MIN-MAX",
            show_default="what the kind draws",
            help="Share of the image in percent.",
        ),
    ] = None,
    per_image: Annotated[
        int,
        typer.Option(
            "--per-image", rich_help_panel=RANDOM, metavar="N", min=1, help="Masks for each image."
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            rich_help_panel=RANDOM,
            metavar="N",
            min=0,
            help="A mask depends on it, the image's name and the mask's number alone.",
        ),
    ] = 0,
    recursive: opt.Recursive = False,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    grow: opt.Grow = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            show_default="NAME_mask.png beside the image, or NAME_mask000.png onwards for several",
            help="File for one mask, else folder.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace masks that exist already.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Print what would be written, and write nothing."),
    ] = False,
    print_paths: opt.PrintPaths = False,
) -> None:
    """Make masks. Random ones are drawn at 256 pixels (512 for images over 384), as they were
    published, and enlarged to the image.

    \b
    Examples:
      d2s mask make cutout.png --from alpha
      d2s mask make marked.png --from color=#FF00FF --grow 2
      d2s mask make before.png --from diff --with after.png --threshold 8
      d2s mask make test/ --from random --kind irregular-thick --per-image 2 --seed 1 -o masks/
    """
    from d2s_cli.images.draw_masks import parse_cover
    from d2s_cli.images.make_masks import MakeSettings, plan_masks, write_planned

    settings = MakeSettings(
        source,
        other,
        threshold,
        kind,
        parse_cover(cover) if cover is not None else None,
        per_image,
        seed,
        grow,
    )
    selection = opt.selection(include, exclude, limit)
    plan = plan_masks(images, settings, output, recursive, force, selection)
    if dry_run:
        for one in plan:
            print(f"{one.image} -> {one.target}")
        return
    failed = 0
    for one in plan:
        try:
            share = write_planned(one, settings)
        except InputError as error:
            if len(plan) == 1:
                raise
            failed += 1
            say(f"failed: {error.message}")
            continue
        say(f"{one.target}: {share:.1%} hole")
        if print_paths:
            print(one.target)
    if failed:
        raise typer.Exit(SOME_FAILED)
