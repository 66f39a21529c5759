"""What every training run does round its steps: rates, reports, logs, stopping."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError

from d2s_cli.errors import InputError, UsageError
from d2s_cli.ranks import Ranks
from d2s_cli.training.checkpoints import cannot_write
from d2s_cli.training.data import DATA, Batch
from d2s_cli.training.logbook import Logbook
from d2s_cli.training.pictures import Picture, PictureFiles, load_photos
from d2s_cli.training.streams import DrawBatch, open_stream
from d2s_cli.training.utilisation import Meter

RATES = ("constant", "cosine")
MASKS = ("paper", "mixed")
ALONE = Ranks()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long a run is and how fast it learns; both kinds of training have these settings.

    Attributes:
        images: crops to see in all.
        batch: crops a step, of all processes together, at the first of `sizes`; larger crops come
            in smaller batches of about as many pixels.
        sizes: crop sides, drawn anew each step with `size_shares`.
        learning_rate: after warm-up.
        warmup: images over which the rate rises from 0.
        cooldown: images at the end over which it falls to 0.
        lr_schedule: "constant" between warm-up and cool-down, or "cosine", half a wave from
            warm-up's end to 0 at the end.
        weight_decay: of AdamW; 0 makes it Adam.
        ema_halflife: in images, see ema.py; `ema_decay` overrides it with a constant factor.
        masks: "paper" (MAT's large) or "mixed".
        data: "crops" or "aligned", see `draw_example`.
        seed: of everything random.
    """

    images: int = 1_000_000
    batch: int = 3
    sizes: tuple[int, ...] = (256,)
    size_shares: tuple[float, ...] = (1.0,)
    learning_rate: float = 5e-5
    warmup: int = 0
    cooldown: int = 0
    lr_schedule: str = "constant"
    weight_decay: float = 0.0
    ema_halflife: float = 20_000
    ema_decay: float | None = None
    masks: str = "paper"
    data: str = "crops"
    seed: int = 0

    def size_of(self, step: int) -> tuple[int, int]:
        """Crop side and batch of a step."""
        rng = np.random.default_rng([self.seed, step, 1])
        size = int(rng.choice(self.sizes, p=self.size_shares))
        pixels = self.batch * self.sizes[0] ** 2
        return size, max(1, round(pixels / size**2))

    def share(self, step: int, ranks: Ranks) -> list[int]:
        """Which of a step's examples are this process'; none if there are fewer than processes."""
        _, count = self.size_of(step)
        return list(range(ranks.rank, count, ranks.size))

    def rate_at(self, images: int) -> float:
        """Learning rate: linear warm-up, constant or cosine, linear cool-down to 0 at the end."""
        up = min(1.0, (images + self.batch) / self.warmup) if self.warmup else 1.0
        left = self.images - images
        down = min(1.0, max(left, 0) / self.cooldown) if self.cooldown else 1.0
        if self.lr_schedule == "cosine":
            done = (images - self.warmup) / max(1, self.images - self.warmup)
            down = min(down, 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, done))))
        return self.learning_rate * min(up, down)


@dataclass
class Progress:
    """What the caller is told after each reported stretch of steps.

    Attributes:
        loss: mean over the stretch.
        operations_per_second: floating-point, without those done twice for checkpointing.
        utilisation: the same as a share of what a convolution reaches on this machine.
    """

    images: int
    total: int
    loss: float
    images_per_second: float
    seconds_left: float
    learning_rate: float
    operations_per_second: float | None = None
    utilisation: float | None = None


class Trainer(Protocol):
    """The state of a run."""

    images: int
    step_number: int

    @property
    def config(self) -> Schedule:
        """The run's settings."""

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
        stop: asked before each step; a run of several processes stops when one is told to.
        workers: processes that draw examples; 0 draws in a thread.
        validate_every: images between validations.
        validated: called with the images seen and the values after each validation.
    """

    report: Callable[[Progress], None] | None = None
    save_every: float = 300.0
    report_every: float = 10.0
    stop: Callable[[], bool] = lambda: False
    workers: int = 0
    validate_every: int = 10_000
    validated: Callable[[int, dict[str, Any]], None] | None = None


def read_photos(
    folders: Sequence[Path], schedule: Schedule, workers: int = 0, ranks: Ranks = ALONE
) -> Sequence[Picture]:
    """The pictures to train on.

    Args:
        workers: 0 has them in memory, else they are decoded where they are drawn.
        ranks: all must find the same; the first one finds out which files can be decoded where
            that is not done by reading them.

    Raises:
        UsageError, InputError: settings or folders that cannot be trained with.
    """
    if schedule.images < 1 or schedule.batch < 1:
        raise UsageError("images and batch must be 1 or more")
    sizes, shares = schedule.sizes, schedule.size_shares
    if (
        len(sizes) != len(shares)
        or min(sizes) < 1
        or min(shares) < 0
        or abs(sum(shares) - 1) > 1e-6
    ):
        raise UsageError(
            f"sizes {sizes} and size_shares {shares} do not fit each other",
            "as many shares as sizes, of 1 together",
        )
    known_values = {"masks": MASKS, "lr_schedule": RATES, "data": DATA}
    for name, known in known_values.items():
        value = getattr(schedule, name)
        if value not in known:
            raise UsageError(
                f"unknown {name.replace('_', '-')} {value!r}", f"one of: {', '.join(known)}"
            )
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"no folder at {folder}", "give a folder of pictures to train on")
    if ranks.first and schedule.batch < ranks.size:
        log.warning("a batch of %d leaves some of %d processes idle", schedule.batch, ranks.size)
    if workers:
        photos: Sequence[Picture] = ranks.once(lambda: PictureFiles.find(folders))
    else:
        photos = load_photos(folders)
    _check_same(ranks, len(photos))
    return photos


def _check_same(ranks: Ranks, pictures: int) -> None:
    """Raise InputError if processes, which may be on other machines, have other pictures."""
    if int(ranks.total(torch.tensor([pictures]))) != ranks.size * pictures:
        raise InputError(
            f"process {ranks.rank} finds {pictures} pictures, others find other numbers",
            "give every machine the same folders at the same place",
        )


def drive(
    trainer: Trainer,
    draw: DrawBatch,
    photos: Sequence[Picture],
    total: int,
    output: Path,
    pace: Pace,
    ranks: Ranks = ALONE,
    meter: Meter | None = None,
    validate: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Step until `total` images are seen or the pace says stop; save on the way and at the end.

    Args:
        draw: step -> Batch, see streams.py.
        photos: for the sample pictures.
        output: of the run.
        ranks: all step; the first one alone saves, logs, reports and validates.
        meter: counts arithmetic, if given.
        validate: makes values of held-out pictures, if given.

    Raises:
        InputError: what the run ends with cannot be written. On the way that is a warning.
    """
    log_of_run = _Record(trainer, photos, total, output, pace, meter, validate, ranks.first)
    stream = open_stream(draw, trainer.step_number, pace.workers)
    batches = iter(stream)
    try:
        while trainer.images < total and not ranks.any(pace.stop()):
            batch = next(batches)
            seen = trainer.images
            loss = trainer.step(batch)
            if ranks.first:
                log_of_run.after_step(loss, batch.image.shape[-1], trainer.images - seen)
    finally:
        stream.close()
    if ranks.first:
        log_of_run.finish()


class _Record:
    """What the first rank does between steps; arguments as `drive`."""

    def __init__(
        self,
        trainer: Trainer,
        photos: Sequence[Picture],
        total: int,
        output: Path,
        pace: Pace,
        meter: Meter | None,
        validate: Callable[[], dict[str, Any]] | None,
        first: bool,
    ) -> None:
        self.trainer, self.photos, self.total = trainer, photos, total
        self.output, self.pace, self.meter, self.make_values = output, pace, meter, validate
        self.logbook = Logbook(output, trainer.images) if first else None
        self.losses: list[float] = []
        self.images_at_start = self.validated_at = trainer.images
        self.began = self.last_report = self.last_save = time.monotonic()
        self.paused = 0.0

    def after_step(self, loss: float, size: int, items: int) -> None:
        """Report, save and validate where it is time for it."""
        self.losses.append(loss)
        if self.meter:
            self.meter.add(size, items)
        now = time.monotonic()
        if now - self.last_report >= self.pace.report_every:
            self._report(now)
        every = self.pace.validate_every
        if self.trainer.images // every > (self.trainer.images - items) // every:
            self._validate()
        if now - self.last_save >= self.pace.save_every:
            self._save()
        self.paused += time.monotonic() - now

    def finish(self) -> None:
        """Save what the run ends with; one that was not stopped is also looked at."""
        ended = self.trainer.images >= self.total
        if self.losses:
            self._report(time.monotonic())
        try:
            save_and_show(self.trainer, self.photos if ended else None)
            if ended and self.trainer.images > self.validated_at:
                self._validate()
        finally:
            if self.logbook:
                self.logbook.close()

    def _report(self, now: float) -> None:
        images = self.trainer.images
        rate = (images - self.images_at_start) / (now - self.began)
        seconds = now - self.last_report - self.paused
        done, share = self.meter.take(seconds) if self.meter else (None, None)
        progress = Progress(
            images,
            self.total,
            float(np.mean(self.losses)),
            rate,
            max(0.0, (self.total - images) / rate),
            self.trainer.config.rate_at(images),
            done,
            share,
        )
        if self.logbook:
            self.logbook.write(images, dataclasses.asdict(progress))
        if self.pace.report:
            self.pace.report(progress)
        self.losses, self.last_report, self.paused = [], now, 0.0

    def _validate(self) -> None:
        if self.make_values is None:
            return
        values, images = self.make_values(), self.trainer.images
        self.validated_at = images
        if self.logbook:
            self.logbook.write(images, {"validation": values})
        if self.pace.validated:
            self.pace.validated(images, values)

    def _save(self) -> None:
        try:
            save_and_show(self.trainer, self.photos)
        except InputError as error:
            log.warning("%s; training goes on", error.message)
        self.last_save = time.monotonic()


def save_and_show(trainer: Trainer, photos: Sequence[Picture] | None) -> None:
    """Write everything a run leaves; no sample pictures without photos to make them of.

    Raises:
        InputError: it cannot be written; files of the same names that were there stay whole.
    """
    try:
        trainer.save()
        if photos is not None:
            trainer.show(photos)
    except (OSError, SafetensorError) as error:
        raise cannot_write(error) from error
