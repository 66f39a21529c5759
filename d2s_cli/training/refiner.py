"""Algorithm 1: train a refiner, with EMA, checkpoints and exact resume.

Run the same command again and it goes on where it stopped: examples, noise and noise levels depend
on (seed, step) alone, and a checkpoint holds the network, its average and the optimiser.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2s_cli.diffusion.refiner import Refiner, RefinerConfig, training_loss
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import WeightsError
from d2s_cli.runtime import Compute, channels_last
from d2s_cli.training.data import EXAMPLES_A_STEP, Batch, Picture, draw_example, make_batch
from d2s_cli.training.ema import Ema, ema_decay
from d2s_cli.training.run import (
    Pace,
    Schedule,
    describe,
    drive,
    load_checkpoint,
    read_photos,
    save_checkpoint,
)
from d2s_cli.training.samples import write_samples
from d2s_cli.weights.reading import write_safetensors

EXPORT = "refiner.safetensors"
GRADIENT_CLIP = 1.0


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
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    prediction: str = "eps"
    table_steps: int = 2000
    tk_max: int | None = None
    tk_power: float = 1.0
    per_hole: bool = False


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

    def __init__(self, config: TrainConfig, output: Path, compute: Compute) -> None:
        self.config, self.output, self.compute = config, output, compute
        torch.manual_seed(config.seed)
        unet = UNet(config.unet).to(compute.device)
        if compute.device.type == "cuda":
            channels_last(unet)
        self.refiner = Refiner(unet, refiner_config(config, 0), compute)
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

    def noise_levels(self, rng: np.random.Generator, items: int) -> Tensor:
        """alpha_bar for each item: between two neighbouring steps of the table (algorithm 1)."""
        last = self.config.tk_max or self.table.steps
        t = 1 + (last - 1) * rng.random(items) ** self.config.tk_power
        step = np.minimum(t.astype(int), last - 1)
        alpha_bar = self.table.alpha_bar
        levels = alpha_bar[step - 1] + (t - step) * (alpha_bar[step] - alpha_bar[step - 1])
        return torch.from_numpy(levels).float()

    def step(self, batch: Batch) -> float:
        """One optimiser step; returns the loss."""
        config, device = self.config, self.compute.device
        rng = np.random.default_rng([config.seed, self.step_number, 2])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))  # dropout draws from torch's own generator
        alpha_bar = self.noise_levels(rng, len(batch.image))
        hole_noise = torch.randn(batch.image.shape, generator=generator)
        noise = torch.randn(batch.image.shape, generator=generator)

        for group in self.optimizer.param_groups:
            group["lr"] = config.rate_at(self.images)
        self.refiner.unet.train()
        loss = training_loss(
            self.refiner,
            batch.image.to(device),
            batch.hole.to(device),
            hole_noise.to(device),
            noise.to(device),
            alpha_bar.to(device),
            per_hole=config.per_hole,
        )
        if not math.isfinite(value := float(loss.detach())):
            raise WeightsError(
                f"the loss became {value} after {self.images} images",
                "the last checkpoint is whole; go on with a lower --learning-rate",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.refiner.unet.parameters(), GRADIENT_CLIP)
        self.optimizer.step()
        decay = ema_decay(self.images, len(batch.image), config.ema_halflife, config.ema_decay)
        self.ema.update(self.refiner.unet, decay)
        self.images += len(batch.image)
        self.step_number += 1
        return value

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
        """Go on from the checkpoint in the output folder, if there is one."""
        if (state := load_checkpoint(self.output, self.config.unet)) is None:
            return False
        self.refiner.unet.load_state_dict(state["unet"])
        self.ema.load(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.images, self.step_number = state["images"], state["step"]
        return True

    def averaged(self) -> Refiner:
        """The refiner with the averaged weights, to sample and score with."""
        unet = UNet(self.config.unet)
        unet.load_state_dict(self.ema.average)
        unet.eval().requires_grad_(False).to(self.compute.device)
        return Refiner(unet, refiner_config(self.config, self.images), self.compute)

    def show(self, photos: Sequence[Picture]) -> None:
        """Write samples/IMAGES.png."""
        write_samples(self.averaged(), photos, self.output, self.images)


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


def train(
    folders: list[Path],
    output: Path,
    config: TrainConfig,
    compute: Compute,
    pace: Pace | None = None,
) -> RefinerTrainer:
    """Train until `config.images` are seen, or the pace says stop; save on the way and at the end.

    Args:
        folders: pictures to train on, any size, subfolders included.
        output: checkpoint.pt, refiner.safetensors, log.jsonl and samples/ go here.
    """
    photos = read_photos(folders, config)
    trainer = RefinerTrainer(config, output, compute)
    trainer.resume()

    def draw(step: int) -> Batch:
        size, count = config.size_of(step)
        first = step * EXAMPLES_A_STEP
        return make_batch(
            [draw_example(photos, config.seed, first + i, size, config.masks) for i in range(count)]
        )

    drive(trainer, draw, photos, config.images, output, pace or Pace())
    return trainer
