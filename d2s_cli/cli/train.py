"""`d2s train`."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import suggestions
from d2s_cli.cli.console import say
from d2s_cli.cli.interrupts import Interrupts
from d2s_cli.cli.suggestions import one_of

if TYPE_CHECKING:
    from d2s_cli.runtime import Compute
    from d2s_cli.training.run import Pace


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
            help="Checkpoint, refiner.safetensors (or guide.safetensors), log.jsonl and samples/"
            " go here.",
        ),
    ] = Path("runs/d2s"),
    model: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(suggestions.MODELS),
            help="refiner (algorithm 1), or guide (a network that corrects PatchMatch's result;"
            " needs the extra guide-training).",
        ),
    ] = "refiner",
    preset: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(suggestions.PRESETS),
            help="Of a refiner: modern (the bundled weights' recipe: lean, quick to train) or"
            " paper (the paper's network and recipe).",
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
    """Train a refiner by algorithm 1, or a guide, on folders of photographs. Run the same command
    again to go on where it stopped; Ctrl-C saves first.

    \b
    Examples:
      d2s train photos/ -o runs/mine
      # the paper's network and recipe, on aligned faces
      d2s train celeba-hq-256/ --preset paper -o runs/faces --device cuda
      # the network of --guide neural
      d2s train photos/ --model guide -o runs/guide
      # then use it
      d2s inpaint photo.png -m m.png --weights runs/mine/refiner.safetensors
    """
    from d2s_cli.errors import UsageError
    from d2s_cli.runtime import pick
    from d2s_cli.training.run import Pace, Progress

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    if model not in suggestions.MODELS:
        raise UsageError(f"unknown model {model!r}", f"one of: {', '.join(suggestions.MODELS)}")
    given = {
        "images": images,
        "batch": batch_size,
        "learning_rate": learning_rate,
        "cooldown": cooldown,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    compute = pick(device, precision)
    say(f"device: {compute}")

    def report(p: Progress) -> None:
        say(
            f"{p.images}/{p.total} images, loss {p.loss:.4f}, {p.images_per_second:.1f} images/s,"
            f" {p.seconds_left / 60:.0f} min left"
        )

    with Interrupts("this step, and saving") as interrupts:
        pace = Pace(report, save_every, stop=interrupts.stopped)
        if model == "guide":
            saved, seen = _train_guide(folders, output, changes, compute, pace)
        else:
            saved, seen = _train_refiner(folders, output, preset, changes, compute, pace)
    say(f"saved {saved} after {seen} images")
    raise typer.Exit(interrupts.exit_code())


def _train_refiner(
    folders: list[Path],
    output: Path,
    preset: str,
    changes: dict[str, Any],
    compute: Compute,
    pace: Pace,
) -> tuple[Path, int]:
    from d2s_cli.errors import UsageError
    from d2s_cli.training import refiner

    if preset not in refiner.PRESETS:
        raise UsageError(f"unknown preset {preset!r}", f"one of: {', '.join(refiner.PRESETS)}")
    config = dataclasses.replace(refiner.PRESETS[preset], **changes)
    trainer = refiner.train(folders, output, config, compute, pace)
    return output / refiner.EXPORT, trainer.images


def _train_guide(
    folders: list[Path], output: Path, changes: dict[str, Any], compute: Compute, pace: Pace
) -> tuple[Path, int]:
    from d2s_cli.training import guide

    config = dataclasses.replace(guide.GuideConfig(), **changes)

    def prepared(made: int) -> None:
        say(f"{made}/{config.candidates} examples have PatchMatch's result")

    trainer = guide.train_guide(folders, output, config, compute, pace, prepared)
    return output / guide.EXPORT, trainer.images
