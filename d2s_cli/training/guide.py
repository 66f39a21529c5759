"""Train the guide `neural`: reconstruction, perceptual and adversarial losses."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.fill_files import (
    fill_config,
    find_fill_file,
    read_fill_networks,
    write_fill_networks,
)
from d2s_cli.guides.fill_network import FillNetwork
from d2s_cli.guides.smooth_fill import smooth_fill
from d2s_cli.images.convert import from_unit_range
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
    Batch,
    Picture,
)
from d2s_cli.training.ema import Ema, ema_decay
from d2s_cli.training.guide_data import GuideConfig, GuideDrawing, candidate_batch
from d2s_cli.training.guide_validation import GuideValidation
from d2s_cli.training.perceptual import Distances, PerceptualDistance
from d2s_cli.training.run import ALONE, Pace, drive, read_photos

EXPORT = "guide.safetensors"
GRADIENT_CLIP = 1.0
#: rows of a sample sheet have this many examples
SHOWN = 8


class _Counts(NamedTuple):
    """Of the whole batch: items, hole pixels, made patches; and whether this process has a share
    (one that has none goes through the motions with an example that counts as nothing)."""

    share: bool
    items: Tensor
    pixels: Tensor
    patches: Tensor


class GuideTrainer:
    """The state of a run: network, its average, adversary, and both optimisers.

    `smoother` makes the smooth fills that the network sees, and is not trained.
    """

    def __init__(
        self,
        config: GuideConfig,
        output: Path,
        compute: Compute,
        ranks: Ranks = ALONE,
        smoother: FillNetwork | None = None,
    ) -> None:
        self.config, self.output, self.compute, self.ranks = config, output, compute, ranks
        torch.manual_seed(config.seed)
        self.network = FillNetwork(config.network).to(compute.device)
        self.smoother = smoother
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
        smooth = self._smooth(image, hole, batch.soft)
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

    def _smooth(self, image: Tensor, hole: Tensor, soft: Tensor | None) -> Tensor:
        """The smooth fill that the network sees; it learns nothing from it."""
        soft = None if soft is None else soft.to(image)
        with torch.no_grad(), self.compute.network_precision():
            return smooth_fill(image, hole, self.smoother, soft)

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
        if self.smoother is not None:
            state |= {
                "smoother": self.smoother.state_dict(),
                "smoother_network": describe(self.smoother.config),
            }
        save_checkpoint(self.output, state)
        write_fill_networks(
            self.output / EXPORT,
            self.config.network,
            self.ema.average,
            self.smoother,
            {"images_seen": self.images, "recipe": dataclasses.asdict(self.config)},
        )

    def start_from(self, network: FillNetwork) -> None:
        """Begin with another network's weights."""
        self.network.load_state_dict(network.state_dict())
        self.ema.load(network.state_dict())

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
        self._resume_smoother(state)
        return True

    def _resume_smoother(self, state: dict[str, Any]) -> None:
        """A run keeps the smoother that it began with, whatever became of its file."""
        if "smoother" in state:
            with torch.device(self.compute.device):
                smoother = FillNetwork(fill_config(json.loads(state["smoother_network"])))
            smoother.load_state_dict(state["smoother"])
            self.smoother = smoother.eval().requires_grad_(False)
        elif self.smoother is not None:
            raise UsageError(
                f"the run in {self.output} was begun without a smoother",
                "leave --smoother out, or train into another folder: --output NEW",
            )

    @torch.no_grad()
    def corrected(self, batch: Batch) -> tuple[Tensor, Distances]:
        """What the averaged network makes of the candidates of a batch, on the CPU; and its
        distances from the truth, means over the feature networks."""
        device = self.compute.device
        network = FillNetwork(self.config.network).to(device).eval()
        network.load_state_dict(self.ema.average)
        image, hole = batch.image.to(device), batch.hole.to(device)
        smooth = self._smooth(image, hole, None)
        candidate = smooth if batch.candidate is None else batch.candidate.to(device)
        with self.compute.network_precision():
            fill = network(candidate, smooth, hole).float()
            found = [distance(fill, image, hole) for distance in self.perceptual]
        means = (torch.stack(parts).mean(0) for parts in zip(*found, strict=True))
        return fill.cpu(), Distances(*means)

    def show(self, photos: Sequence[Picture]) -> None:
        """Write samples/IMAGES.png: rows of truth, candidate, and what the average makes of it."""
        batch = self._shown
        device = self.compute.device
        smooth = self._smooth(batch.image.to(device), batch.hole.to(device), None).cpu()
        candidate = smooth if batch.candidate is None else batch.candidate
        fills = [
            self.corrected(dataclasses.replace(batch, candidate=c))[0] for c in (smooth, candidate)
        ]
        rows = [batch.image, smooth, fills[0], candidate, fills[1]]
        sheet = np.concatenate([np.concatenate(list(from_unit_range(row)), 1) for row in rows])
        folder = self.output / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(folder / f"{self.images:09d}.png")

    def show_always(self, batch: Batch) -> None:
        """Choose the examples of the sample sheets."""
        self._shown = batch


class Beginning(NamedTuple):
    """Networks that a new run begins with: its own, and the smoother; either may be None."""

    network: FillNetwork | None
    smoother: FillNetwork | None


def beginning(
    config: GuideConfig, init: str | None, smoother: str | None, device: torch.device
) -> tuple[GuideConfig, Beginning]:
    """Settings and networks to go on with those of files.

    Args:
        init: bundled name or file of the network to go on from; its shape and, where nothing else
            is asked for, its smoother come with it.
        smoother: of the network that makes the smooth fills: the smoother of this file or, where it
            has none, its network.

    Raises:
        WeightsError: a file that cannot be used.
    """
    network = smooth = None
    if init is not None:
        held = read_fill_networks(find_fill_file(init), device)
        network, smooth = held.network, held.smoother
        config = dataclasses.replace(config, network=network.config, init=Path(init).name)
    if smoother is not None:
        held = read_fill_networks(find_fill_file(smoother), device)
        smooth = held.smoother or held.network
    if smooth is not None:
        name = init if smoother is None else smoother
        config = dataclasses.replace(config, smoother=Path(str(name)).name)
    return config, Beginning(network, smooth)


def train_guide(
    folders: list[Path],
    output: Path,
    config: GuideConfig,
    compute: Compute,
    pace: Pace | None = None,
    prepared: Callable[[int], None] = lambda made: None,
    begin: Beginning | None = None,
    held_out: Sequence[Path] = (),
) -> GuideTrainer:
    """Train until `config.images` are seen, or the pace says stop; save on the way and at the end.

    Started by torchrun, all processes train one guide. `config.batch` is that of all together.

    Args:
        folders: pictures to train on, any size, subfolders included.
        output: checkpoint.pt, guide.safetensors, log.jsonl, samples/ and candidates/ go here.
        prepared: called with how many examples have PatchMatch's result, while these are made.
        begin: what a new run begins with; `config` comes from the same call of `beginning`.
        held_out: folders of pictures to validate with.

    Raises:
        UsageError, InputError: settings or folders that cannot be trained with, or results that
            cannot be written.
        WeightsError: a damaged checkpoint, or a loss that became infinite or none.
    """
    begin = begin or Beginning(None, None)
    pace = pace or Pace()
    ranks = Ranks.join(compute.device)
    photos = read_photos(folders, config, pace.workers, ranks)
    trainer = GuideTrainer(config, output, compute, ranks, begin.smoother)
    if not trainer.resume() and begin.network is not None:
        trainer.start_from(begin.network)

    # the sample sheets show some even where no step uses them
    count = config.candidates if config.candidate_share else min(SHOWN, config.candidates)

    def load() -> Candidates:
        return load_candidates(output / "candidates", photos, config, count, prepared)

    candidates = ranks.once(load)
    shown = range(SHOWN)
    first = np.random.default_rng(0)
    trainer.show_always(candidate_batch(candidates, first, config.sizes[0], SHOWN, shown))
    draw = GuideDrawing(photos, candidates, config, ranks, trainer.smoother is not None)
    validate: Callable[[], dict[str, Any]] | None = None
    if held_out and ranks.first:
        kept = output / "candidates" / "held-out"
        validation = GuideValidation(read_photos(held_out, config), config, kept)
        validate = functools.partial(validation.values, trainer.corrected)
    drive(trainer, draw, photos, config.images, output, pace, ranks, validate=validate)
    return trainer
