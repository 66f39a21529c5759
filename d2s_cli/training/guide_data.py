"""The recipe of a guide's training run, and the batches that it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.guides.fill_network import FillConfig
from d2s_cli.guides.opencv import METHODS, opencv_fill
from d2s_cli.guides.smooth_fill import telea_fill
from d2s_cli.images.convert import to_unit_range
from d2s_cli.ranks import Ranks
from d2s_cli.training.candidates import Candidates
from d2s_cli.training.data import (
    EXAMPLES_A_STEP,
    Batch,
    Example,
    Picture,
    draw_example,
    make_batch,
)
from d2s_cli.training.perceptual import SIZES
from d2s_cli.training.run import Schedule


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
        init, smoother: names of the files that the run began with, and whose network makes the
            smooth fills.
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
    init: str = ""
    smoother: str = ""


@dataclass(frozen=True)
class GuideDrawing:
    """Step -> this process' share of the batch. Depends on the step alone, and can be pickled.

    `soft` has Telea's fill made, for a smoother.
    """

    photos: Sequence[Picture]
    candidates: Candidates
    config: GuideConfig
    ranks: Ranks
    soft: bool = False

    def __call__(self, step: int) -> Batch:
        batch = self._drawn(step)
        if not self.soft:
            return batch
        return dataclasses.replace(batch, soft=telea_fill(batch.image, batch.hole))

    def _drawn(self, step: int) -> Batch:
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
    candidate = to_unit_range(opencv_fills(examples, methods))
    return dataclasses.replace(make_batch(examples), candidate=candidate)


def opencv_fills(examples: Sequence[Example], methods: Sequence[str]) -> NDArray[np.uint8]:
    """Results of OpenCV's methods, N x H x W x 3."""
    fills = [
        opencv_fill(np.where(e.hole[..., None], np.uint8(0), e.image), e.hole, method)
        for e, method in zip(examples, methods, strict=True)
    ]
    return np.stack(fills)


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
