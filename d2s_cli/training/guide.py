"""Train the guide `neural`: reconstruction, perceptual and adversarial losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from d2s_cli.errors import WeightsError
from d2s_cli.guides.fill_network import FillConfig, FillNetwork, push_pull
from d2s_cli.guides.opencv import METHODS, opencv_fill
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.ranks import Ranks
from d2s_cli.runtime import Compute
from d2s_cli.training.adversary import (
    PatchAdversary,
    adversary_loss,
    deceit_loss,
    made_patches,
    patches_of,
)
from d2s_cli.training.candidates import Candidates, load_candidates
from d2s_cli.training.checkpoints import describe, load_checkpoint, save_checkpoint
from d2s_cli.training.data import (
    EXAMPLES_A_STEP,
    Batch,
    Example,
    Picture,
    draw_example,
    make_batch,
)
from d2s_cli.training.ema import Ema, ema_decay
from d2s_cli.training.perceptual import SIZES, PerceptualDistance
from d2s_cli.training.run import ALONE, Pace, Schedule, drive, read_photos
from d2s_cli.weights.reading import write_safetensors

EXPORT = "guide.safetensors"
GRADIENT_CLIP = 1.0
#: rows of a sample sheet have this many examples
SHOWN = 8


@dataclass(frozen=True)
class GuideConfig(Schedule):
    """One training run of the guide; the defaults make the one that corrects PatchMatch's results.

    Attributes:
        network: shape of the network.
        candidates: how many examples have PatchMatch's result.
        candidate_share: how often a step uses these.
        soft_share: how often a step starts from OpenCV's fills; the others start from the smooth
            fill alone.
        l1, perceptual, style, adversarial: weights of the losses; of the perceptual distance, that
            by place and that of means are weighed apart (perceptual.py).
        features: networks for the perceptual distance, perceptual.SIZES, one a step in turns.
        grain: deviation, in 8-bit levels, of noise that results and truths get alike before their
            perceptual distance is taken: patterns too weak to be seen are not worth making.
        adversary_from: images after which the adversary joins.
    """

    network: FillConfig = field(default_factory=FillConfig)
    images: int = 200_000
    batch: int = 8
    sizes: tuple[int, ...] = (128, 256)
    size_shares: tuple[float, ...] = (0.7, 0.3)
    learning_rate: float = 5e-4
    warmup: int = 2_000
    weight_decay: float = 0.01
    ema_halflife: float = 5_000
    masks: str = "mixed"
    candidates: int = 2048
    candidate_share: float = 0.75
    soft_share: float = 0.2
    l1: float = 0.5
    perceptual: float = 1.0
    style: float = 2.0
    features: tuple[int, ...] = SIZES
    grain: float = 2.0
    adversarial: float = 0.1
    adversary_from: int = 10_000


class _Counts(NamedTuple):
    """Of the whole batch: items, hole pixels, made patches; and whether this process has a share
    (one that has none goes through the motions with an example that counts as nothing)."""

    share: bool
    items: Tensor
    pixels: Tensor
    patches: Tensor


class GuideTrainer:
    """The state of a run: network, its average, adversary, and both optimisers."""

    def __init__(
        self, config: GuideConfig, output: Path, compute: Compute, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.output, self.compute, self.ranks = config, output, compute, ranks
        torch.manual_seed(config.seed)
        self.network = FillNetwork(config.network).to(compute.device)
        self.adversary = PatchAdversary().to(compute.device)
        self.perceptual = nn.ModuleList(PerceptualDistance(size) for size in config.features)
        self.perceptual.to(compute.device)
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
        """One step of the guide, and one of the adversary, on this process' share of the batch;
        returns the guide's loss for the whole one."""
        config, device = self.config, self.compute.device
        image, hole = batch.image.to(device), batch.hole.to(device)
        smooth = push_pull(image, hole)
        candidate = smooth if batch.candidate is None else batch.candidate.to(device)
        rate = config.rate_at(self.images)
        for group in (*self.optimizer.param_groups, *self.adversary_optimizer.param_groups):
            group["lr"] = rate
        counts = self._counts(hole)
        self.network.train()
        with self.compute.network_precision():
            fill = self.network(candidate, smooth, hole)
        loss = self._loss(fill, image, hole, counts)
        value = float(self.ranks.total(loss.detach().clone()))
        if not math.isfinite(value):
            raise WeightsError(
                f"the loss became {value} after {self.images} images",
                "the last checkpoint is whole; go on with a lower --learning-rate",
            )
        self._descend(loss, self.optimizer, self.network, GRADIENT_CLIP)
        if self.images >= config.adversary_from:
            loss = self._adversary_loss(fill.detach(), image, hole, counts)
            self._descend(loss, self.adversary_optimizer, self.adversary)
        items = config.size_of(self.step_number)[1]
        decay = ema_decay(self.images, items, config.ema_halflife, config.ema_decay)
        self.ema.update(self.network, decay)
        self.images += items
        self.step_number += 1
        return value

    def _counts(self, hole: Tensor) -> _Counts:
        """What the sums over this process' share are divided by: counts of the whole batch."""
        share = bool(self.config.share(self.step_number, self.ranks))
        made = made_patches(hole, patches_of(hole)).sum()
        ours = torch.stack([torch.tensor(float(len(hole)), device=hole.device), hole.sum(), made])
        items, pixels, patches = self.ranks.total(ours * share).clamp(min=1)
        return _Counts(share, items, pixels, patches)

    def _loss(self, fill: Tensor, image: Tensor, hole: Tensor, counts: _Counts) -> Tensor:
        """This process' part of the loss; the parts add up to that of the whole batch."""
        config = self.config
        l1 = ((fill - image).abs() * hole).sum() / (3 * counts.pixels)
        with self.compute.network_precision():
            # taken in turns, what one network alone is sensitive to is no way out
            perceptual = self.perceptual[self.step_number % len(self.perceptual)]
            grain = self._grain(image)
            by_place, of_means = perceptual(fill + grain, image + grain, hole)
            loss: Tensor = config.l1 * l1 + config.perceptual * by_place.sum() / counts.items
            if config.style:
                loss = loss + config.style * of_means.sum() / counts.items
            if self.images < config.adversary_from or not config.adversarial:
                return loss * counts.share
            scores = self.adversary(fill, hole)
        deceit = deceit_loss(scores, made_patches(hole, patches_of(hole))) / counts.patches
        whole: Tensor = loss + config.adversarial * deceit
        return whole * counts.share

    def _grain(self, image: Tensor) -> Tensor:
        """Noise for every example of the step; the same in every process."""
        generator = torch.Generator().manual_seed(self.config.seed + self.step_number)
        noise = torch.randn(image.shape[1:], generator=generator)
        return self.config.grain / 127.5 * noise.to(image.device)

    def _adversary_loss(self, fill: Tensor, image: Tensor, hole: Tensor, counts: _Counts) -> Tensor:
        with self.compute.network_precision():
            scores = self.adversary(torch.cat([image, fill]), torch.cat([hole, hole]))
        real, made = scores.chunk(2)
        known, false = adversary_loss(real, made, made_patches(hole, patches_of(hole)))
        patches = counts.items * (real.numel() / len(real))
        loss: Tensor = known / patches + false / counts.patches
        return loss * counts.share

    def _descend(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, network: nn.Module, clip: float = 0.0
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.add_gradients(network.parameters())
        if clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()

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
        state = self.ranks.once(lambda: load_checkpoint(self.output, self.config.network))
        if state is None:
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


@dataclass(frozen=True)
class GuideDrawing:
    """Step -> this process' share of the batch. Depends on the step alone, and can be pickled."""

    photos: Sequence[Picture]
    candidates: Candidates
    config: GuideConfig
    ranks: Ranks

    def __call__(self, step: int) -> Batch:
        config = self.config
        side, count = config.size_of(step)
        numbers = config.share(step, self.ranks) or [0]
        rng = np.random.default_rng([config.seed, step, 3])
        kind = rng.random()
        if kind < config.candidate_share:
            return candidate_batch(self.candidates, rng, side, count, numbers)
        first = step * EXAMPLES_A_STEP
        examples = [
            draw_example(self.photos, config.seed, first + i, side, config.masks, config.data)
            for i in numbers
        ]
        if kind >= config.candidate_share + config.soft_share:
            return make_batch(examples)
        methods = [str(rng.choice(list(METHODS))) for _ in range(count)]
        return soft_batch(examples, [methods[i] for i in numbers])


def soft_batch(examples: Sequence[Example], methods: Sequence[str]) -> Batch:
    """Examples with the results of OpenCV's methods as candidates."""
    fills = [
        opencv_fill(np.where(e.hole[..., None], np.uint8(0), e.image), e.hole, method)
        for e, method in zip(examples, methods, strict=True)
    ]
    return dataclasses.replace(make_batch(examples), candidate=to_unit_range(np.stack(fills)))


def candidate_batch(
    candidates: Candidates,
    rng: np.random.Generator,
    side: int,
    count: int,
    numbers: Sequence[int],
) -> Batch:
    """Those of `count` examples of this side with PatchMatch's result that have these numbers."""
    drawn = [candidates.draw(rng, side) for _ in range(count)]
    images, holes, fills = zip(*(drawn[i] for i in numbers), strict=True)
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

    Started by torchrun, all processes train one guide. `config.batch` is that of all together.

    Args:
        folders: pictures to train on, any size, subfolders included.
        output: checkpoint.pt, guide.safetensors, log.jsonl, samples/ and candidates/ go here.
        prepared: called with how many examples have PatchMatch's result, while these are made.
    """
    pace = pace or Pace()
    ranks = Ranks.join(compute.device)
    photos = read_photos(folders, config, pace.workers, ranks)
    trainer = GuideTrainer(config, output, compute, ranks)
    trainer.resume()

    # the sample sheets show some even where no step uses them
    count = config.candidates if config.candidate_share else min(SHOWN, config.candidates)

    def load() -> Candidates:
        return load_candidates(output / "candidates", photos, config, count, prepared)

    candidates = ranks.once(load)
    shown = range(SHOWN)
    first = np.random.default_rng(0)
    trainer.show_always(candidate_batch(candidates, first, config.sizes[0], SHOWN, shown))
    draw = GuideDrawing(photos, candidates, config, ranks)
    drive(trainer, draw, photos, config.images, output, pace, ranks)
    return trainer
