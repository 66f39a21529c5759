"""`d2s train`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from d2s_cli.cli import suggestions
from d2s_cli.cli.console import say
from d2s_cli.cli.interrupts import Interrupts
from d2s_cli.cli.suggestions import one_of


def train(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of pictures, any size.", metavar="DIR...")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Checkpoint, refiner.safetensors, log.jsonl and samples/ go here.",
        ),
    ] = Path("runs/d2s"),
    preset: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(suggestions.PRESETS),
            help="modern (the bundled weights' recipe: lean, quick to train) or paper (the"
            " paper's network and recipe).",
        ),
    ] = "modern",
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Crops to see in all. [default: the preset's]", show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="N",
            show_default=False,
            help="Crops in one step. [default: the preset's]",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            metavar="F",
            show_default=False,
            help="Largest one of the run. [default: the preset's]",
        ),
    ] = None,
    cooldown: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help="Crops at the end over which the learning rate falls to 0. [default: the"
            " preset's]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of crops, holes and noise.")] = 0,
    save_every: Annotated[
        float, typer.Option(metavar="SECONDS", help="Between checkpoints with sample pictures.")
    ] = 300.0,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            envvar="D2S_DEVICE",
            autocompletion=one_of(suggestions.DEVICES),
            help="auto, cpu, cuda, mps.",
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            envvar="D2S_PRECISION",
            autocompletion=one_of(suggestions.PRECISIONS),
            help="auto, fp32 or bf16.",
        ),
    ] = "auto",
) -> None:
    """Train a refiner by algorithm 1 on folders of photographs. Run the same command again to go
    on where it stopped; Ctrl-C saves first.

    \b
    Examples:
      d2s train photos/ -o runs/mine
      # the paper's network and recipe, on aligned faces
      d2s train celeba-hq-256/ --preset paper -o runs/faces --device cuda
      # then use it
      d2s inpaint photo.png -m m.png --weights runs/mine/refiner.safetensors
    """
    import dataclasses

    from d2s_cli.errors import UsageError
    from d2s_cli.runtime import pick
    from d2s_cli.training import loop

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    if preset not in loop.PRESETS:
        raise UsageError(f"unknown preset {preset!r}", f"one of: {', '.join(loop.PRESETS)}")
    given = {
        "images": images,
        "batch": batch_size,
        "learning_rate": learning_rate,
        "cooldown": cooldown,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(loop.PRESETS[preset], **changes)  # type: ignore[arg-type]
    compute = pick(device, precision)
    say(f"device: {compute}")
    with Interrupts("this step, and saving") as interrupts:
        trainer = loop.train(
            list(folders),
            output,
            config,
            compute,
            report=lambda p: say(
                f"{p.images}/{p.total} images, loss {p.loss:.4f}, {p.images_per_second:.1f}"
                f" images/s, {p.seconds_left / 60:.0f} min left"
            ),
            save_every=save_every,
            stop=interrupts.stopped,
        )
    say(f"saved {output / loop.EXPORT} after {trainer.images} images")
    raise typer.Exit(interrupts.exit_code())
