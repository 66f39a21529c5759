"""Algorithm 1: train a refiner, with EMA, checkpoints and exact resume.

Run the same command again and it goes on where it stopped: examples, noise and noise levels depend
on (seed, step) alone, and a checkpoint holds the network, its average and the optimiser.

Several processes share each step's examples by number; their gradients are added up so that the
step is the one that a single process would make of the whole batch.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from d2s_cli.diffusion.loss import min_snr_weights, squared_error
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig, SeededNoise
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.ranks import Ranks
from d2s_cli.runtime import Compute, channels_last
from d2s_cli.training.checkpoints import describe, load_checkpoint, save_checkpoint
from d2s_cli.training.data import EXAMPLES_A_STEP, Batch, draw_example, make_batch
from d2s_cli.training.ema import Ema, ema_decay
from d2s_cli.training.pictures import Picture
from d2s_cli.training.run import ALONE, Pace, Schedule, drive, read_photos
from d2s_cli.training.samples import write_samples
from d2s_cli.training.utilisation import Meter
from d2s_cli.training.validation import LEVELS, Validation
from d2s_cli.weights.reading import write_safetensors

EXPORT = "refiner.safetensors"
GRADIENT_CLIP = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig(Schedule):
    """One training run of a refiner. `modern` and `paper` are the presets.

    Attributes:
        unet: shape of the network.
        prediction: "eps" or "v".
        table_steps: T of the noise table in training.
        tk_max: train on steps 1 to tk_max of the table only; None for all (2 to T, as algorithm 1
            draws them).
        tk_power: above 1 draws low noise more often.
        per_hole: average the loss over the hole instead of the picture.
        min_snr: gamma of `min_snr_weights`; None weights all levels alike.
        checkpointing: see UNet.
        init: name of the refiner that the run began with.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    prediction: str = "eps"
    table_steps: int = 2000
    tk_max: int | None = None
    tk_power: float = 1.0
    per_hole: bool = False
    min_snr: float | None = None
    checkpointing: bool = False
    init: str = ""


#: the paper's recipe: what to use for checkpoints to compare with published ones
PAPER = TrainConfig(unet=UNetConfig(dropout=0.2), ema_decay=0.9999)

#: what makes the bundled weights: lean network on folded pixels, the noise levels that refining
#: uses
MODERN = TrainConfig(
    unet=UNetConfig(inner_channels=64, channel_mults=(1, 1, 2, 3), res_blocks=1, unshuffle=2),
    prediction="v",
    images=200_000,
    batch=8,
    sizes=(96, 128, 224),
    size_shares=(0.6, 0.25, 0.15),
    learning_rate=4e-4,
    warmup=4_000,
    weight_decay=0.01,
    table_steps=1000,
    tk_max=400,
    tk_power=1.4,
    masks="mixed",
    per_hole=True,
)
PRESETS = {"modern": MODERN, "paper": PAPER}


class RefinerTrainer:
    """The state of a run: network, average, optimiser, and how many images it has seen."""

    def __init__(
        self, config: TrainConfig, output: Path, compute: Compute, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.output, self.compute, self.ranks = config, output, compute, ranks
        torch.manual_seed(config.seed)
        unet = UNet(config.unet).to(compute.device)
        if compute.device.type == "cuda":
            channels_last(unet)
        unet.checkpointing = config.checkpointing
        self.refiner = Refiner(unet, refiner_config(config, 0), compute)
        self.learner = self.refiner if ranks.size == 1 else self._joined(unet)
        self.ema = Ema(unet)
        self.optimizer = torch.optim.AdamW(
            unet.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=compute.device.type in ("cpu", "cuda"),
        )
        self.table = NoiseTable(config.table_steps)
        self.images = 0
        self.step_number = 0

    def _joined(self, unet: UNet) -> Refiner:
        """The same refiner, whose gradients are the mean of all processes'."""
        device = self.compute.device
        joined = DistributedDataParallel(
            unet,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        return Refiner(cast(UNet, joined), self.refiner.config, self.compute)

    def noise_levels(self, rng: np.random.Generator, items: int) -> Tensor:
        """alpha_bar for each item: between two neighbouring steps of the table (algorithm 1)."""
        last = self.config.tk_max or self.table.steps
        t = 1 + (last - 1) * rng.random(items) ** self.config.tk_power
        step = np.minimum(t.astype(int), last - 1)
        alpha_bar = self.table.alpha_bar
        levels = alpha_bar[step - 1] + (t - step) * (alpha_bar[step] - alpha_bar[step - 1])
        return torch.from_numpy(levels).float()

    def step(self, batch: Batch) -> float:
        """One optimiser step on this process' share of the batch; returns the whole one's loss."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step_number, 2])
        # dropout draws from torch's own generator
        torch.manual_seed(int(rng.integers(2**62)) + self.ranks.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate_at(self.images)
        self.refiner.unet.train()
        loss, value = self._loss(batch, rng)
        self._check_finite(value, "loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.refiner.unet.parameters(), GRADIENT_CLIP)
        self._check_finite(float(norm), "gradient")
        self.optimizer.step()
        items = config.size_of(self.step_number)[1]
        decay = ema_decay(self.images, items, config.ema_halflife, config.ema_decay)
        self.ema.update(self.refiner.unet, decay)
        self.images += items
        self.step_number += 1
        return value

    def _loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, float]:
        """What to differentiate, and the loss of the whole batch.

        Gradients of the former, averaged over processes, are those of the latter: sums over the
        share are divided by the whole batch's number of pixels, and multiplied by the number of
        processes.
        """
        config, device = self.config, self.compute.device
        share = config.share(self.step_number, self.ranks)
        # one that has no share goes through the motions with the first example, counted as nothing
        numbers = share or [0]
        levels = self.noise_levels(rng, config.size_of(self.step_number)[1])
        alpha_bar = levels[numbers].to(device)
        first = self.step_number * EXAMPLES_A_STEP
        source = device if device.type == "cuda" else torch.device("cpu")
        draw = SeededNoise([(config.seed, first + i, 1) for i in numbers], len(numbers), source)
        hole_noise, noise = (draw(tuple(batch.image.shape)).to(device) for _ in range(2))
        image, hole = batch.image.to(device), batch.hole.to(device)
        error = squared_error(self.learner, image, hole, hole_noise, noise, alpha_bar)
        if config.min_snr is not None:
            weights = min_snr_weights(alpha_bar, config.min_snr, config.prediction)
            error = error * weights[:, None, None, None]
        pixels = hole.sum() if config.per_hole else torch.ones_like(hole).sum()
        counted = error.sum() * bool(share)
        sums = torch.stack([counted.detach(), image.shape[1] * pixels * bool(share)])
        total, elements = self.ranks.total(sums)
        elements = elements.clamp(min=1)
        return counted * (self.ranks.size / elements), float(total / elements)

    def _check_finite(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            raise WeightsError(
                f"the {name} became {value} after {self.images} images",
                "the last checkpoint is whole; go on with a lower --learning-rate",
            )

    def save(self) -> None:
        """Write checkpoint and averaged refiner; the old ones stay until these are whole."""
        state = {
            "unet": self.refiner.unet.state_dict(),
            "ema": self.ema.average,
            "optimizer": self.optimizer.state_dict(),
            "images": self.images,
            "step": self.step_number,
            "network": describe(self.config.unet),
        }
        save_checkpoint(self.output, state)
        config = refiner_config(self.config, self.images)
        write_safetensors(self.output / EXPORT, self.ema.average, config.to_json(), torch.float16)

    def resume(self) -> bool:
        """Go on from the checkpoint in the output folder, if there is one.

        The first process reads it for all: others may be on machines without that folder.
        """
        state = self.ranks.once(lambda: load_checkpoint(self.output, self.config.unet))
        if state is None:
            return False
        self.refiner.unet.load_state_dict(state["unet"])
        self.ema.load(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.images, self.step_number = state["images"], state["step"]
        return True

    def start_from(self, refiner: Refiner) -> None:
        """Begin with another refiner's weights."""
        self.refiner.unet.load_state_dict(refiner.unet.state_dict())
        self.ema.load(refiner.unet.state_dict())

    def averaged(self) -> Refiner:
        """The refiner with the averaged weights, to sample and score with."""
        unet = UNet(self.config.unet)
        unet.load_state_dict(self.ema.average)
        unet.eval().requires_grad_(False).to(self.compute.device)
        return Refiner(unet, refiner_config(self.config, self.images), self.compute)

    def show(self, photos: Sequence[Picture]) -> None:
        """Write samples/IMAGES.png."""
        write_samples(self.averaged(), photos, self.output, self.images, self.config.data)


def refiner_config(config: TrainConfig, images: int) -> RefinerConfig:
    """What the exported file says about itself."""
    table = NoiseTable(config.table_steps)
    about: dict[str, Any] = {"images_seen": images, "recipe": dataclasses.asdict(config)}
    return RefinerConfig(
        unet=dataclasses.replace(config.unet, dropout=0.0),
        prediction=config.prediction,
        alpha_bar_min=table.at(config.tk_max) if config.tk_max else 0.0,
        tile=max(256, *config.sizes),
        about=about,
    )


def fine_tuning(config: TrainConfig, refiner: Refiner) -> TrainConfig:
    """The settings to go on with another refiner: its network and prediction, the rest as it is."""
    unet = dataclasses.replace(refiner.config.unet, dropout=config.unet.dropout)
    return dataclasses.replace(
        config, unet=unet, prediction=refiner.config.prediction, init=refiner.name
    )


@dataclass(frozen=True)
class Drawing:
    """Step -> this process' share of the batch. Depends on the step alone, and can be pickled."""

    photos: Sequence[Picture]
    config: TrainConfig
    ranks: Ranks

    def __call__(self, step: int) -> Batch:
        config, first = self.config, step * EXAMPLES_A_STEP
        size, _ = config.size_of(step)
        return make_batch(
            [
                draw_example(self.photos, config.seed, first + i, size, config.masks, config.data)
                for i in config.share(step, self.ranks) or [0]
            ]
        )


def train(
    folders: list[Path],
    output: Path,
    config: TrainConfig,
    compute: Compute,
    pace: Pace | None = None,
    init: Refiner | None = None,
    held_out: Sequence[Path] = (),
) -> RefinerTrainer:
    """Train until `config.images` are seen, or the pace says stop; save on the way and at the end.

    Started by torchrun, all processes train one refiner. `config.batch` is that of all together.

    Args:
        folders: pictures to train on, any size, subfolders included.
        output: checkpoint.pt, refiner.safetensors, log.jsonl and samples/ go here.
        init: what a new run begins with; `config` comes from `fine_tuning`.
        held_out: folders of pictures to validate with.

    Raises:
        UsageError, InputError: settings or folders that cannot be trained with, or results that
            cannot be written.
        WeightsError: a damaged checkpoint, or numbers that became infinite or none.
    """
    pace = pace or Pace()
    if config.min_snr is not None and not config.min_snr > 0:
        raise UsageError(f"min-SNR's gamma must be above 0, not {config.min_snr}")
    ranks = Ranks.join(compute.device)
    photos = read_photos(folders, config, pace.workers, ranks)
    unseen = read_photos(held_out, config) if held_out and ranks.first else []
    trainer = RefinerTrainer(config, output, compute, ranks)
    if not trainer.resume() and init is not None:
        trainer.start_from(init)
    drive(
        trainer,
        Drawing(photos, config, ranks),
        photos,
        config.images,
        output,
        pace,
        ranks,
        Meter(config.unet, compute, ranks.size),
        _validation(trainer, unseen) if unseen else None,
    )
    return trainer


def _validation(trainer: RefinerTrainer, unseen: Sequence[Picture]) -> Callable[[], dict[str, Any]]:
    """Makes the values of held-out pictures at a few levels of those that are trained on."""
    config, table = trainer.config, trainer.table
    last = config.tk_max or table.steps
    levels = [table.at(math.ceil(last * (i + 0.5) / LEVELS)) for i in range(LEVELS)]
    validation = Validation(unseen, config.sizes[0], config.masks, config.data, levels)
    return lambda: validation.values(trainer.averaged())
