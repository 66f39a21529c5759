"""Train the guide `neural`: reconstruction, perceptual and adversarial losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2s_cli.errors import WeightsError
from d2s_cli.guides.fill_network import FillConfig, FillNetwork, push_pull
from d2s_cli.guides.opencv import METHODS, opencv_fill
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.runtime import Compute
from d2s_cli.training.adversary import (
    PatchAdversary,
    adversary_loss,
    deceit_loss,
    made_patches,
)
from d2s_cli.training.candidates import Candidates, load_candidates
from d2s_cli.training.data import (
    EXAMPLES_A_STEP,
    Batch,
    Example,
    Picture,
    draw_example,
    make_batch,
)
from d2s_cli.training.ema import Ema, ema_decay
from d2s_cli.training.perceptual import PerceptualDistance
from d2s_cli.training.run import (
    Pace,
    Schedule,
    describe,
    drive,
    load_checkpoint,
    read_photos,
    save_checkpoint,
)
from d2s_cli.weights.reading import write_safetensors

EXPORT = "guide.safetensors"
GRADIENT_CLIP = 1.0
#: rows of a sample sheet have this many examples
SHOWN = 8


@dataclass(frozen=True)
class GuideConfig(Schedule):
    """One training run of the guide.

    Attributes:
        network: shape of the network.
        candidates: how many examples have PatchMatch's result.
        candidate_share: how often a step uses these.
        soft_share: how often a step starts from OpenCV's fills; the others start from the smooth
            fill alone.
        l1, perceptual, adversarial: weights of the three losses.
        adversary_from: images after which the adversary joins.
    """

    network: FillConfig = field(default_factory=FillConfig)
    images: int = 200_000
    batch: int = 8
    sizes: tuple[int, ...] = (128, 256)
    size_shares: tuple[float, ...] = (0.9, 0.1)
    learning_rate: float = 5e-4
    warmup: int = 2_000
    weight_decay: float = 0.01
    ema_halflife: float = 5_000
    masks: str = "mixed"
    candidates: int = 3072
    candidate_share: float = 0.35
    soft_share: float = 0.45
    l1: float = 4.0
    perceptual: float = 1.0
    adversarial: float = 0.1
    adversary_from: int = 10_000


class GuideTrainer:
    """The state of a run: network, its average, adversary, and both optimisers."""

    def __init__(self, config: GuideConfig, output: Path, compute: Compute) -> None:
        self.config, self.output, self.compute = config, output, compute
        torch.manual_seed(config.seed)
        self.network = FillNetwork(config.network).to(compute.device)
        self.adversary = PatchAdversary().to(compute.device)
        self.perceptual = PerceptualDistance().to(compute.device)
        self.ema = Ema(self.network)
        fused = compute.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=fused,
        )
        self.adversary_optimizer = torch.optim.AdamW(
            self.adversary.parameters(), lr=config.learning_rate, betas=(0.5, 0.99), fused=fused
        )
        self.images = 0
        self.step_number = 0

    def step(self, batch: Batch) -> float:
        """One step of the guide, and one of the adversary; returns the guide's loss."""
        config, device = self.config, self.compute.device
        image, hole = batch.image.to(device), batch.hole.to(device)
        smooth = push_pull(image, hole)
        candidate = smooth if batch.candidate is None else batch.candidate.to(device)
        rate = config.rate_at(self.images)
        for group in (*self.optimizer.param_groups, *self.adversary_optimizer.param_groups):
            group["lr"] = rate
        self.network.train()
        with self.compute.network_precision():
            fill = self.network(candidate, smooth, hole)
        loss = self._loss(fill, image, hole)
        if not math.isfinite(value := float(loss.detach())):
            raise WeightsError(
                f"the loss became {value} after {self.images} images",
                "the last checkpoint is whole; go on with a lower --learning-rate",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_CLIP)
        self.optimizer.step()
        if self.images >= config.adversary_from:
            self._adversary_step(fill.detach(), image, hole)
        decay = ema_decay(self.images, len(image), config.ema_halflife, config.ema_decay)
        self.ema.update(self.network, decay)
        self.images += len(image)
        self.step_number += 1
        return value

    def _loss(self, fill: Tensor, image: Tensor, hole: Tensor) -> Tensor:
        config = self.config
        l1 = ((fill - image).abs() * hole).sum() / (3 * hole.sum())
        with self.compute.network_precision():
            perceptual = self.perceptual(fill, image, hole)
            loss: Tensor = config.l1 * l1 + config.perceptual * perceptual
            if self.images < config.adversary_from or not config.adversarial:
                return loss
            scores = self.adversary(fill, hole)
        weight = made_patches(hole, (scores.shape[-2], scores.shape[-1]))
        loss = loss + config.adversarial * deceit_loss(scores, weight)
        return loss

    def _adversary_step(self, fill: Tensor, image: Tensor, hole: Tensor) -> None:
        with self.compute.network_precision():
            scores = self.adversary(torch.cat([image, fill]), torch.cat([hole, hole]))
        real, made = scores.chunk(2)
        weight = made_patches(hole, (made.shape[-2], made.shape[-1]))
        loss = adversary_loss(real, made, weight)
        self.adversary_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.adversary_optimizer.step()

    def save(self) -> None:
        """Write checkpoint and averaged guide; the old ones stay until these are whole."""
        state = {
            "guide": self.network.state_dict(),
            "ema": self.ema.average,
            "optimizer": self.optimizer.state_dict(),
            "adversary": self.adversary.state_dict(),
            "adversary_optimizer": self.adversary_optimizer.state_dict(),
            "images": self.images,
            "step": self.step_number,
            "network": describe(self.config.network),
        }
        save_checkpoint(self.output, state)
        header = {
            "architecture": "fill",
            "network": dataclasses.asdict(self.config.network),
            "about": {"images_seen": self.images, "recipe": dataclasses.asdict(self.config)},
        }
        write_safetensors(self.output / EXPORT, self.ema.average, header, torch.float16)

    def resume(self) -> bool:
        """Go on from the checkpoint in the output folder, if there is one."""
        if (state := load_checkpoint(self.output, self.config.network)) is None:
            return False
        self.network.load_state_dict(state["guide"])
        self.ema.load(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.adversary.load_state_dict(state["adversary"])
        self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])
        self.images, self.step_number = state["images"], state["step"]
        return True

    def show(self, photos: Sequence[Picture]) -> None:
        """Write samples/IMAGES.png: rows of truth, candidate, and what the average makes of it."""
        batch = self._shown
        network = FillNetwork(self.config.network)
        network.load_state_dict(self.ema.average)
        network.eval()
        smooth = push_pull(batch.image, batch.hole)
        candidate = smooth if batch.candidate is None else batch.candidate
        with torch.inference_mode():
            fills = [network(c, smooth, batch.hole) for c in (smooth, candidate)]
        rows = [batch.image, smooth, fills[0], candidate, fills[1]]
        sheet = np.concatenate([np.concatenate(list(from_unit_range(row)), 1) for row in rows])
        folder = self.output / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(folder / f"{self.images:09d}.png")

    def show_always(self, batch: Batch) -> None:
        """Choose the examples of the sample sheets."""
        self._shown = batch


def soft_batch(examples: Sequence[Example], rng: np.random.Generator) -> Batch:
    """Examples with Telea's or the Navier-Stokes fill as candidate."""
    methods = [str(rng.choice(list(METHODS))) for _ in examples]
    fills = [
        opencv_fill(np.where(e.hole[..., None], np.uint8(0), e.image), e.hole, method)
        for e, method in zip(examples, methods, strict=True)
    ]
    return dataclasses.replace(make_batch(examples), candidate=to_unit_range(np.stack(fills)))


def candidate_batch(candidates: Candidates, rng: np.random.Generator, count: int) -> Batch:
    """Examples that have PatchMatch's result."""
    images, holes, fills = zip(*(candidates.draw(rng) for _ in range(count)), strict=True)
    return Batch(
        image=to_unit_range(np.stack(images)),
        hole=torch.from_numpy(np.stack(holes))[:, None].float(),
        candidate=to_unit_range(np.stack(fills)),
    )


def train_guide(
    folders: list[Path],
    output: Path,
    config: GuideConfig,
    compute: Compute,
    pace: Pace | None = None,
    prepared: Callable[[int], None] = lambda made: None,
) -> GuideTrainer:
    """Train until `config.images` are seen, or the pace says stop; save on the way and at the end.

    Args:
        folders: pictures to train on, any size, subfolders included.
        output: checkpoint.pt, guide.safetensors, log.jsonl, samples/ and candidates/ go here.
        prepared: called with how many examples have PatchMatch's result, while these are made.
    """
    photos = read_photos(folders, config)
    trainer = GuideTrainer(config, output, compute)
    trainer.resume()
    size = config.sizes[0]
    candidates = load_candidates(
        output / "candidates", photos, config.seed, config.candidates, size, prepared
    )
    trainer.show_always(candidate_batch(candidates, np.random.default_rng(0), SHOWN))

    def draw(step: int) -> Batch:
        side, count = config.size_of(step)
        rng = np.random.default_rng([config.seed, step, 3])
        kind = rng.random()
        if side == size and kind < config.candidate_share:
            return candidate_batch(candidates, rng, count)
        first = step * EXAMPLES_A_STEP
        examples = [
            draw_example(photos, config.seed, first + i, side, config.masks) for i in range(count)
        ]
        soft = kind < config.candidate_share + config.soft_share
        return soft_batch(examples, rng) if soft else make_batch(examples)

    drive(trainer, draw, photos, config.images, output, pace or Pace())
    return trainer
