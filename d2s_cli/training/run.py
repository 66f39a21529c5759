"""What every training run does round its steps: rates, reports, checkpoints, logs, stopping."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from d2s_cli.errors import InputError, UsageError
from d2s_cli.training.data import Batch, BatchStream, Picture, load_photos

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Schedule:
    """How long a run is and how fast it learns; both kinds of training have these settings.

    Attributes:
        images: crops to see in all.
        batch: crops a step at the first of `sizes`; larger crops come in smaller batches of about
            as many pixels.
        sizes: crop sides, drawn anew each step with `size_shares`.
        learning_rate: after warm-up.
        warmup: images over which the rate rises from 0.
        cooldown: images at the end over which it falls to 0.
        weight_decay: of AdamW; 0 makes it Adam.
        ema_halflife: in images, see ema.py; `ema_decay` overrides it with a constant factor.
        masks: "paper" (MAT's large) or "mixed".
        seed: of everything random.
    """

    images: int = 1_000_000
    batch: int = 3
    sizes: tuple[int, ...] = (256,)
    size_shares: tuple[float, ...] = (1.0,)
    learning_rate: float = 5e-5
    warmup: int = 0
    cooldown: int = 0
    weight_decay: float = 0.0
    ema_halflife: float = 20_000
    ema_decay: float | None = None
    masks: str = "paper"
    seed: int = 0

    def size_of(self, step: int) -> tuple[int, int]:
        """Crop side and batch of a step."""
        rng = np.random.default_rng([self.seed, step, 1])
        size = int(rng.choice(self.sizes, p=self.size_shares))
        pixels = self.batch * self.sizes[0] ** 2
        return size, max(1, round(pixels / size**2))

    def rate_at(self, images: int) -> float:
        """Learning rate: linear warm-up, constant, linear cool-down to 0 at the end."""
        up = min(1.0, (images + self.batch) / self.warmup) if self.warmup else 1.0
        left = self.images - images
        down = min(1.0, max(left, 0) / self.cooldown) if self.cooldown else 1.0
        return self.learning_rate * min(up, down)


@dataclass
class Progress:
    """What the caller is told after each reported stretch of steps."""

    images: int
    total: int
    loss: float
    images_per_second: float
    seconds_left: float


class Trainer(Protocol):
    """The state of a run."""

    images: int
    step_number: int

    def step(self, batch: Batch) -> float:
        """One optimiser step; returns the loss."""

    def save(self) -> None:
        """Write checkpoint and export."""

    def show(self, photos: Sequence[Picture]) -> None:
        """Write sample pictures."""


@dataclass(frozen=True)
class Pace:
    """When a run reports, saves and stops.

    Attributes:
        report: called about every `report_every` seconds.
        save_every: seconds between checkpoints with sample pictures.
        stop: asked after each step.
    """

    report: Callable[[Progress], None] | None = None
    save_every: float = 300.0
    report_every: float = 10.0
    stop: Callable[[], bool] = lambda: False


def read_photos(folders: Sequence[Path], schedule: Schedule) -> list[Picture]:
    """The pictures to train on.

    Raises:
        UsageError, InputError: settings or folders that cannot be trained with.
    """
    if schedule.images < 1 or schedule.batch < 1:
        raise UsageError("images and batch must be 1 or more")
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"no folder at {folder}", "give a folder of pictures to train on")
    return load_photos(folders)


def drive(
    trainer: Trainer,
    draw: Callable[[int], Batch],
    photos: Sequence[Picture],
    total: int,
    output: Path,
    pace: Pace,
) -> None:
    """Step until `total` images are seen or the pace says stop; save on the way and at the end."""
    output.mkdir(parents=True, exist_ok=True)
    stream = BatchStream(draw, trainer.step_number)
    losses: list[float] = []
    began, images_at_start = time.monotonic(), trainer.images
    last_report = last_save = began
    try:
        for batch in stream:
            if trainer.images >= total or pace.stop():
                break
            losses.append(trainer.step(batch))
            now = time.monotonic()
            if now - last_report >= pace.report_every:
                rate = (trainer.images - images_at_start) / (now - began)
                left = (total - trainer.images) / rate
                progress = Progress(trainer.images, total, float(np.mean(losses)), rate, left)
                _append_log(output, progress)
                if pace.report:
                    pace.report(progress)
                losses, last_report = [], now
            if now - last_save >= pace.save_every:
                trainer.save()
                trainer.show(photos)
                last_save = time.monotonic()
    finally:
        stream.close()
    trainer.save()
    trainer.show(photos)


def save_checkpoint(output: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; the old one stays until the new one is whole."""
    output.mkdir(parents=True, exist_ok=True)
    partial = output / (CHECKPOINT + ".part")
    try:
        torch.save(state, partial)
        os.replace(partial, output / CHECKPOINT)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(output: Path, network: object) -> dict[str, Any] | None:
    """The checkpoint of an earlier run into this folder, if there is one.

    Args:
        network: configuration (a dataclass) of the network; the checkpoint's must be the same.

    Raises:
        UsageError: it was made with another network.
    """
    path = output / CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved = json.loads(state["network"])
    if saved != json.loads(describe(network)):
        raise UsageError(
            f"{path} was made with another network: {saved}",
            "train with the same options, or into another folder: --output NEW",
        )
    return state


def describe(config: object) -> str:
    """A dataclass as JSON."""
    return json.dumps(dataclasses.asdict(config))  # type: ignore[call-overload]


def _append_log(output: Path, progress: Progress) -> None:
    with open(output / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(progress)) + "\n")
