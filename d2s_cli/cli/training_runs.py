"""What `d2s train` starts: a refiner's run or a guide's. Imports torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2s_cli.cli.console import say
from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.errors import UsageError
from d2s_cli.runtime import Compute
from d2s_cli.training import guide, refiner
from d2s_cli.training.guide_data import GuideConfig
from d2s_cli.training.run import Pace
from d2s_cli.training.settings import with_settings


@dataclass
class Run:
    """What was asked for.

    Attributes:
        folders: of pictures.
        output: of the run.
        changes: of the recipe, by options.
        settings: NAME=VALUE, as typed after --set.
        compute, pace: as `training.run.drive`.
        init: name or file of the weights to begin with.
        held_out: folders of pictures to validate with.
    """

    folders: list[Path]
    output: Path
    changes: dict[str, Any]
    settings: list[str]
    compute: Compute
    pace: Pace
    init: str | None
    held_out: list[Path]


def train_refiner(run: Run, preset: str) -> tuple[Path, int]:
    """Train; returns the file that is left and the images that were seen."""
    if preset not in refiner.PRESETS:
        raise UsageError(f"unknown preset {preset!r}", f"one of: {', '.join(refiner.PRESETS)}")
    recipe = dataclasses.replace(refiner.PRESETS[preset], **run.changes)
    config = with_settings(recipe, run.settings)
    begin = None if run.init is None else load_refiner(run.init)
    if begin is not None:
        config = refiner.fine_tuning(config, begin)
    trainer = refiner.train(
        run.folders, run.output, config, run.compute, run.pace, begin, run.held_out
    )
    return run.output / refiner.EXPORT, trainer.images


def train_guide(run: Run, smoother: str | None) -> tuple[Path, int]:
    """Train; returns the file that is left and the images that were seen."""

    def prepared(made: int) -> None:
        say(f"{made} examples have PatchMatch's result")

    config = with_settings(dataclasses.replace(GuideConfig(), **run.changes), run.settings)
    config, begin = guide.beginning(config, run.init, smoother, run.compute.device)
    trainer = guide.train_guide(
        run.folders, run.output, config, run.compute, run.pace, prepared, begin, run.held_out
    )
    return run.output / guide.EXPORT, trainer.images
