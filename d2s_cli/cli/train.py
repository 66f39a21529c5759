"""`d2s train`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from d2s_cli.cli import suggestions
from d2s_cli.cli.console import say
from d2s_cli.cli.interrupts import Interrupts
from d2s_cli.cli.suggestions import one_of

#: of aligned sets, as published
ALIGNED_SIZE = 256
#: below this there is no room for holes
SMALLEST_SIZE = 32
PRESETS_OWN = "the preset's"


def train(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of pictures, subfolders included.", metavar="DIR..."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Checkpoint, refiner.safetensors (or guide.safetensors), log.jsonl, samples/ and"
            " tensorboard/ (if that package is installed) go here.",
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
    init: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            show_default=False,
            autocompletion=suggestions.weights_names,
            help="Begin with these weights: of a refiner, a bundled name, a run's"
            " refiner.safetensors or a published Palette checkpoint; of a guide, neural or a run's"
            " guide.safetensors. Network and prediction are then its own, all else the preset's.",
        ),
    ] = None,
    smoother: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            show_default="none, or --init's",
            help="Of a guide: the guide.safetensors (or neural) whose network for smooth fills"
            " shows the new one a corrected Telea's fill, in place of a fill with colours alone.",
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(suggestions.DATA),
            help="crops (random crops at random scale, for pictures of any kind and size) or"
            " aligned (whole pictures, for sets like CelebA-HQ; of those that are not square, the"
            " middle).",
        ),
    ] = "crops",
    size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default="256 for aligned, else the preset's",
            help="Side that the network sees, pixels.",
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            show_default=PRESETS_OWN,
            autocompletion=one_of(suggestions.TRAINING_MASKS),
            help="paper (MAT's large holes) or mixed (large, small, scratches).",
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(metavar="N", help="Crops to see in all.", show_default=PRESETS_OWN),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="N",
            show_default=PRESETS_OWN,
            help="Crops in one step, of all processes together.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            metavar="F",
            show_default=PRESETS_OWN,
            help="Largest one of the run.",
        ),
    ] = None,
    lr_schedule: Annotated[
        str | None,
        typer.Option(
            "--lr-schedule",
            show_default=PRESETS_OWN,
            autocompletion=one_of(suggestions.LR_SCHEDULES),
            help="After warm-up: constant, or cosine (falls to 0 over the run).",
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=PRESETS_OWN,
            help="Crops over which the learning rate rises from 0.",
        ),
    ] = None,
    cooldown: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=PRESETS_OWN,
            help="Crops at the end over which the learning rate falls to 0.",
        ),
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            "--min-snr",
            metavar="GAMMA",
            show_default="all alike",
            help="Weight noise levels by min-SNR; 5 is usual.",
        ),
    ] = None,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing",
            help="Less memory for about a third more arithmetic: features are computed again on the"
            " way back.",
        ),
    ] = False,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N|memory",
            help="memory: all pictures decoded in memory. A number: so many processes (for each"
            " GPU) decode them as they are drawn, for sets that do not fit. Examples are the same.",
        ),
    ] = "memory",
    val: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Held-out pictures: loss (of a refiner by noise level), and PSNR, L1 and seam of"
            " fixed results, into log.jsonl.",
        ),
    ] = None,
    val_every: Annotated[
        int, typer.Option("--val-every", metavar="N", min=1, help="Crops between validations.")
    ] = 10_000,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            show_default=False,
            help="Any other setting of the recipe, by its name in refiner.safetensors' or"
            " guide.safetensors' header (d2s weights info shows them): unet.inner_channels=96,"
            " style=4, sizes=128,256. May be repeated.",
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
    again to go on where it stopped; Ctrl-C saves first. docs/training.md says more.

    \b
    Examples:
      d2s train photos/ -o runs/mine
      # go on from the bundled weights, with held-out pictures to judge by
      d2s train photos/ --init d2s-base --learning-rate 5e-5 --val held-out/ -o runs/mine
      # the paper's network and recipe, on aligned faces
      d2s train celeba-hq-256/ --preset paper --data aligned -o runs/faces
      # the same with eight GPUs; on two machines, add --nnodes 2 --rdzv-endpoint HOST:PORT
      torchrun --nproc-per-node 8 -m d2s_cli train celeba-hq-256/ --preset paper --data aligned \\
        --batch-size 24 --workers 4 -o runs/faces
      # the networks of --guide neural: one for smooth fills, then one for copied texture
      d2s train photos/ --model guide --set candidate_share=0 --set soft_share=0.85 -o runs/smooth
      d2s train photos/ --model guide --smoother runs/smooth/guide.safetensors -o runs/guide
      # then use it
      d2s inpaint photo.png -m m.png --weights runs/mine/refiner.safetensors
    """
    from d2s_cli.cli.training_runs import Run, train_guide, train_refiner
    from d2s_cli.errors import UsageError
    from d2s_cli.ranks import Ranks, local_device
    from d2s_cli.runtime import pick
    from d2s_cli.training.run import Pace, Progress

    if model not in suggestions.MODELS:
        raise UsageError(f"unknown model {model!r}", f"one of: {', '.join(suggestions.MODELS)}")
    if size is None and data == "aligned":
        size = ALIGNED_SIZE
    if size is not None and size < SMALLEST_SIZE:
        raise UsageError(f"--size must be {SMALLEST_SIZE} or more, not {size}")
    given = {
        "images": images,
        "batch": batch_size,
        "learning_rate": learning_rate,
        "lr_schedule": lr_schedule,
        "warmup": warmup,
        "cooldown": cooldown,
        "masks": masks,
        "data": data,
        "sizes": (size,) if size else None,
        "size_shares": (1.0,) if size else None,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if model == "guide":
        _refuse_for_guides(
            {
                "--min-snr": min_snr is not None,
                "--checkpointing": checkpointing,
            }
        )
    elif smoother is not None:
        raise UsageError("--smoother is for --model guide", "leave it out")
    compute = pick(local_device(device), precision)
    ranks = Ranks.join(compute.device)
    level = logging.WARNING if ranks.first else logging.ERROR
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
    if ranks.first:
        say(f"device: {compute}" + (f", {ranks.size} processes" if ranks.size > 1 else ""))

    def report(p: Progress) -> None:
        text = (
            f"{p.images}/{p.total} images, loss {p.loss:.4f}, {p.images_per_second:.1f} images/s,"
            f" {p.seconds_left / 60:.0f} min left"
        )
        if p.operations_per_second is not None and p.utilisation is not None:
            text += f", {_rate(p.operations_per_second)} ({p.utilisation:.0%} of a convolution's)"
        say(text)

    def validated(seen: int, values: dict[str, Any]) -> None:
        say(
            f"{seen} images, held out: loss {values['loss']:.4f}, PSNR {values['psnr']:.2f} dB,"
            f" L1 {values['l1']:.4f}, seam {values['seam']:.3f}"
        )

    with Interrupts("this step, and saving") as interrupts:
        pace = Pace(
            report,
            save_every,
            stop=interrupts.stopped,
            workers=_processes(workers),
            validate_every=val_every,
            validated=validated,
        )
        run = Run(folders, output, changes, settings or [], compute, pace, init, val or [])
        if model == "guide":
            saved, seen = train_guide(run, smoother)
        else:
            run.changes |= {"checkpointing": checkpointing, "min_snr": min_snr}
            saved, seen = train_refiner(run, preset)
    if ranks.first:
        say(f"saved {saved} after {seen} images")
    Ranks.leave()
    raise typer.Exit(interrupts.exit_code())


def _processes(workers: str) -> int:
    from d2s_cli.errors import UsageError

    if workers == "memory":
        return 0
    if not workers.isdecimal() or not int(workers):
        raise UsageError(f"--workers must be memory, or 1 or more, not {workers!r}")
    return int(workers)


def _refuse_for_guides(given: dict[str, bool]) -> None:
    from d2s_cli.errors import UsageError

    if named := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"{', '.join(named)}: for refiners, not for --model guide", "leave it out")


def _rate(operations: float) -> str:
    """Operations a second for people."""
    for unit, size in (("TFLOP/s", 1e12), ("GFLOP/s", 1e9)):
        if operations >= size:
            return f"{operations / size:.1f} {unit}"
    return f"{operations / 1e6:.0f} MFLOP/s"
