"""DDNM (Wang et al., "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model").

An unconditional diffusion model fills the hole: at every step the known part of its x_0 estimate is
replaced by the picture (inpainting's null space is the hole). The model is the DDPM network trained
on CelebA-HQ at 256 x 256 (`celeba_hq.ckpt`); see ddnm_network.py. RGB in [-1, 1], 1 = known.

The published program has two forms. The default, for which it goes through a singular value
decomposition that for inpainting is just the mask, gave the numbers of its paper; the one that it
calls simplified weakens the noise of each step once more. Estimates of x_0 are not clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.ddnm_network import NORM_GROUPS, DDPMUNet, config_from_tensors
from d2s_cli.guides.network import (
    NetworkGuide,
    NoiseSource,
    fit,
    read_files,
    recognising,
    seeded_source,
)
from d2s_cli.guides.pace import Pace

#: the noise table that the network was trained on; step numbers below count from 0
TABLE = NoiseTable(1000, 1e-4, 0.02)

#: state and step number -> predicted noise
PredictNoise = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class DDNMSettings:
    """How the chain is walked. The defaults are those of the published evaluation.

    Attributes:
        steps: network evaluations without time travel.
        eta: share of fresh noise in each step; the rest is the predicted noise.
        travel_length: how many steps each time travel goes back.
        travel_repeat: how often every stretch of `travel_length` steps is walked; 1 never travels.
        simplified: the second form, see the module's text.
    """

    steps: int = 100
    eta: float = 0.85
    travel_length: int = 1
    travel_repeat: int = 1
    simplified: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= TABLE.steps:
            raise UsageError(f"ddnm takes 1 to {TABLE.steps} steps, not {self.steps}")
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta must lie between 0 and 1, not {self.eta}")
        if self.travel_length < 1 or self.travel_repeat < 1:
            raise UsageError("travel_length and travel_repeat must be 1 or more")


def step_numbers(settings: DDNMSettings) -> list[int]:
    """Step numbers of TABLE in the order in which the chain visits them, from noise to -1."""
    skip = TABLE.steps // settings.steps
    length = settings.travel_length
    travels = dict.fromkeys(range(0, settings.steps - length, length), settings.travel_repeat - 1)
    visited: list[int] = []
    position = settings.steps
    while position > 0:
        position -= 1
        visited.append(position)
        if travels.get(position, 0) > 0:
            travels[position] -= 1
            visited += range(position + 1, position + length + 1)
            position += length
    return [position * skip for position in visited] + [-1]


def network_calls(settings: DDNMSettings) -> int:
    """How many steps go down."""
    return sum(after < now for now, after in pairwise(step_numbers(settings)))


def ddnm(
    predict_noise: PredictNoise,
    image: Tensor,
    hole: Tensor,
    noise: NoiseSource,
    settings: DDNMSettings,
) -> Tensor:
    """Fill the hole.

    Args:
        predict_noise: the network.
        image: N x 3 x H x W, [-1, 1]; what it holds inside the hole is not used.
        hole: N x 1 x H x W, 0 or 1.
        noise: called for the start, then once for each step, down or back up.
        settings: how the chain is walked.

    Returns:
        Like `image`, not clipped.
    """
    shape = tuple(image.shape)
    x = noise(shape).to(image)
    x_0 = x
    for now, after in pairwise(step_numbers(settings)):
        here, there = TABLE.at(now + 1), TABLE.at(after + 1)
        fresh = noise(shape).to(image)
        if after > now:
            # time travel starts from the last estimate as the network gave it
            x = sqrt(there) * x_0 + sqrt(1 - there) * fresh
            continue
        eps = predict_noise(x, now)
        x_0 = (x - sqrt(1 - here) * eps) / sqrt(here)
        remaining = sqrt(1 - there) * (sqrt(1 - there**2) if settings.simplified else 1.0)
        mixed = settings.eta * fresh + sqrt(1 - settings.eta**2) * eps
        x = sqrt(there) * torch.where(hole > 0, x_0, image) + remaining * mixed
    return x


class DDNMGuide(NetworkGuide):
    """A DDPM network with DDNM's sampler.

    Attributes:
        network: called with states and float step numbers of shape (N,), gives the noise.
        settings: how the chain is walked.
    """

    def __init__(self, network: DDPMUNet, settings: DDNMSettings, device: torch.device) -> None:
        super().__init__(device)
        self.network, self.settings = network, settings
        self.side = network.config.side

    @property
    def notes(self) -> tuple[str, ...]:
        return (*super().notes, f"{network_calls(self.settings)} network calls for each window")

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.sample(image, hole, seeded_source(seeds))

    def sample(self, image: Tensor, hole: Tensor, noise: NoiseSource) -> Tensor:
        """`ddnm` with the network; arguments as there. Any height and width it can halve."""
        pace = Pace(self.tell, f"guide {self.name}", network_calls(self.settings))

        def predict_noise(x: Tensor, step: int) -> Tensor:
            eps: Tensor = self.network(x, torch.full((len(x),), float(step), device=x.device))
            pace.step()
            return eps[:, :3]

        return ddnm(predict_noise, image, hole, noise, self.settings)


def load(
    paths: Sequence[Path],
    device: torch.device,
    steps: int = 100,
    eta: float = 0.85,
    travel_length: int = 1,
    travel_repeat: int = 1,
    simplified: bool = False,
) -> DDNMGuide:
    """Load a checkpoint.

    Args:
        paths: one file.
        device: where the network runs.
        steps, eta, travel_length, travel_repeat, simplified: see DDNMSettings.

    Raises:
        WeightsError: the file is no DDPM network.
        UsageError: settings that make no sense.
    """
    settings = DDNMSettings(steps, eta, travel_length, travel_repeat, simplified)
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths)
        raise WeightsError(f"guide ddnm is one checkpoint, not {len(paths)}: {names}")
    tensors = {k.removeprefix("module."): v for k, v in read_files(paths).items()}
    expected = "temb.dense.*, conv_in.*, down.*, mid.*, up.*, norm_out.*, conv_out.*"
    with recognising(paths[0], "DDPM network", expected, tensors):
        config = config_from_tensors(tensors)
    widths = (config.channels, *config.widths)
    if not config.widths or any(width % NORM_GROUPS for width in widths):
        raise WeightsError(f"{paths[0]} holds no DDPM network: it cannot have widths of {widths}")
    with torch.device("meta"):
        network = DDPMUNet(config)
    fit(network, tensors, paths[0], device)
    return DDNMGuide(network, settings, device)
