"""`d2s paper split`, `resize` and `pair`: CelebA-HQ and its masks as the paper has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli.console import RunDisplay, say
from d2s_cli.cli.suggestions import RESIZE_FILTERS, one_of

Folder = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FOLDER", show_default=False, help="Where the files go."
    ),
]
Replace = Annotated[bool, typer.Option("--force", "-f", help="Replace existing files.")]
Pictures = Annotated[
    Path,
    typer.Argument(
        help="Folder of pictures, or list file (.txt).", metavar="PICTURES", show_default=False
    ),
]


def split(
    mapping: Annotated[
        Path,
        typer.Argument(
            help="CelebA-HQ-to-CelebA-mapping.txt, as CelebAMask-HQ has it.",
            metavar="MAPPING",
            show_default=False,
        ),
    ],
    output: Folder,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            metavar="FOLDER",
            show_default=False,
            help="CelebA-HQ's pictures, named by their number; the lists then hold their paths."
            " Without it they hold names, NUMBER.jpg.",
        ),
    ] = None,
    first: Annotated[
        int,
        typer.Option(
            "--first", metavar="N", min=0, help="Number of the first file: 1 for 00001.jpg."
        ),
    ] = 0,
    force: Replace = False,
    quiet: opt.Quiet = False,
) -> None:
    """List CelebA-HQ's pictures by the part of CelebA that they come from: 24,183 for training,
    2,993 (val) that the paper tests on, 2,824 (test) that it leaves out.

    \b
    Examples:
      d2s paper split CelebA-HQ-to-CelebA-mapping.txt --pictures CelebA-HQ-img -o lists/
      # pictures that are numbered from 1
      d2s paper split mapping.txt --pictures data256x256 --first 1 -o lists/
    """
    from d2s_cli.paper.dataset import PUBLISHED
    from d2s_cli.paper.dataset import split as write_lists

    counts = write_lists(mapping, output, pictures, first, force)
    for part, count in counts.items():
        if not quiet:
            say(f"{output / part}.txt: {count} pictures")
    if counts != PUBLISHED:
        say(f"warning: CelebA-HQ has {', '.join(f'{n} {p}' for p, n in PUBLISHED.items())}")


def resize(
    pictures: Pictures,
    output: Folder,
    side: Annotated[
        int, typer.Option("--size", metavar="PX", min=8, help="Side of the square results.")
    ] = 256,
    kernel: Annotated[
        str,
        typer.Option(
            "--filter",
            autocompletion=one_of(RESIZE_FILTERS),
            help="lanczos, bicubic, bilinear or box. Scores depend on it; the paper does not say.",
        ),
    ] = "lanczos",
    progress: opt.Progress = "auto",
    quiet: opt.Quiet = False,
) -> None:
    """Write square pictures as PNG at one size; those that are there already are left alone.

    \b
    Examples:
      d2s paper resize lists/val.txt -o data/val
      d2s paper resize lists/train.txt -o data/train --filter bicubic
    """
    from d2s_cli.events import Event
    from d2s_cli.paper.dataset import resize as write_resized

    with RunDisplay(progress, quiet, "resizing") as display:
        written, there = write_resized(
            pictures, output, side, kernel, lambda i, n: display(Event("progress", "", i, n))
        )
    if not quiet:
        say(f"{output}: {written} written, {there} there already")


def pair(
    pictures: Pictures,
    masks: Annotated[
        Path,
        typer.Option(
            "--masks", "-m", metavar="FOLDER", show_default=False, help="The masks, in any number."
        ),
    ],
    output: Folder,
    polarity: opt.Polarity = "white",
    threshold: opt.Threshold = 0.5,
    force: Replace = False,
    progress: opt.Progress = "auto",
    quiet: opt.Quiet = False,
) -> None:
    """Give the first mask by name to the first picture by name, and so on, as MAT's code does:
    written under the pictures' names, white where the hole is. MAT's masks are black there.

    \b
    Examples:
      d2s paper pair data/val --masks mat_masks/small --polarity black -o data/small
      # without published masks: draw them, by the pictures' names
      d2s mask make data/val --from random --kind mat-small --seed 1 -o data/small
    """
    from d2s_cli.events import Event
    from d2s_cli.images.masks import MaskSettings
    from d2s_cli.paper.dataset import pair_masks

    settings = MaskSettings(polarity=polarity, threshold=threshold, source="name")
    with RunDisplay(progress, quiet, "pairing") as display:
        paired = pair_masks(
            pictures,
            masks,
            output,
            settings,
            lambda i, n: display(Event("progress", "", i, n)),
            force,
        )
    if not quiet:
        say(f"{output}: {paired.count} masks, {paired.mean_hole:.1%} hole on average")
