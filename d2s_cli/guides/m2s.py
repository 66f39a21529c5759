"""M2S (Zhang et al., "Minutes to Seconds: Speeded-up DDPM-based Image Inpainting with
Coarse-to-Fine Sampling", 2024).

Two unconditional diffusion models, guided-diffusion's network at 64 x 64 and at 256 x 256. The
small one fills the hole from noise; its result, enlarged and noised a little, is where the large
one starts. Both walk DDIM steps and go back up again and again, so that the hole and its
surroundings grow together; known pixels are noised to the state's level before each call. RGB in
[-1, 1].

The settings are those of the published run script, not the defaults of its program. With them a
picture takes 754 calls of the small network and 169 of the large one.

Files: `celebahq64_500000.pt` and `celebahq256_500000.pt`, flat state dicts; one is enough if the
other lies beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import IMAGE_CHANNELS, UNet, UNetConfig, levels_from_state_dict
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.network import (
    NetworkGuide,
    NoiseSource,
    fit,
    length,
    read_files,
    recognising,
    reduce_known,
    seeded_source,
)
from d2s_cli.guides.pace import Pace

#: the noise table that the networks were trained on, and how many of its steps are kept
TABLE = NoiseTable(1000, 1e-4, 0.02)
KEPT = 270
#: step numbers of TABLE, from 0, that are kept; positions below count these
TIMES = [round(i * (TABLE.steps - 1) / (KEPT - 1)) for i in range(KEPT)]
#: resolution at which the published configurations have attention, and nowhere else
ATTENTION_SIDE = 16
#: channels of one attention head; they leave no trace in the tensors
HEAD_CHANNELS = 64
#: what guided-diffusion calls Palette's cond_embed
EMBEDDING = "time_embed."
#: names of such a network's tensors, for people
EXPECTED = "time_embed.*, input_blocks.*, middle_block.*, output_blocks.*, out.*"
#: sides where attention does not tell
USUAL_SIDES = (64, 256)

#: state and step number of TABLE -> predicted noise
PredictNoise = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Stage:
    """How one network walks its chain, in positions of TIMES.

    Attributes:
        begin: number of positions; the walk starts at the last of them.
        jump: how far each jump goes up.
        repeats: at each turning point the jump is walked `repeats` + 1 times.
        interval: distance between turning points.
        stride: longest step down.
    """

    begin: int
    jump: int
    repeats: int
    interval: int
    stride: int

    def __post_init__(self) -> None:
        if min(self.begin, self.jump, self.interval, self.stride) < 1 or self.repeats < 0:
            raise UsageError(f"m2s cannot walk {self}")
        if max(self.begin, *self.path()) >= KEPT:
            raise UsageError(f"m2s knows {KEPT} noise levels; {self} goes beyond")

    def path(self) -> list[int]:
        """Positions in the order in which they are visited, -1 (no noise) last. Up is in one."""
        turns = [self.begin - 1]
        for low in range(self.begin - 1 - self.interval, -1, -self.interval):
            turns += [low, low + self.jump] * (self.repeats + 1)
        turns.append(-1)
        path = turns[:1]
        for now, after in pairwise(turns):
            path += range(now - self.stride, after, -self.stride)
            path.append(after)
        return path

    @property
    def calls(self) -> int:
        """Network calls of a walk."""
        return sum(after < now for now, after in pairwise(self.path()))


def level(position: int) -> float:
    """alpha_bar at a position; 1 at -1."""
    return 1.0 if position < 0 else TABLE.at(TIMES[position] + 1)


def noised(x_0: Tensor, position: int, noise: Tensor) -> Tensor:
    """A picture with the noise of a position."""
    return sqrt(level(position)) * x_0 + sqrt(1 - level(position)) * noise


def walk(
    predict_noise: PredictNoise,
    x: Tensor,
    image: Tensor,
    known: Tensor,
    noise: NoiseSource,
    stage: Stage,
) -> Tensor:
    """Take a noisy state down to a picture.

    Args:
        predict_noise: the network.
        x: state at position `stage.begin` - 1, N x 3 x H x W.
        image: the known pixels, [-1, 1].
        known: N x 1 x H x W, 0 or 1.
        noise: called before each network call but the first, for the known pixels, and once for
            each position on the way up.
        stage: how to walk.

    Returns:
        N x 3 x H x W in [-1, 1]; known pixels are near those of `image`, not equal.
    """
    shape = tuple(x.shape)
    for call, (now, after) in enumerate(pairwise(stage.path())):
        if after > now:
            for position in range(now + 1, after + 1):
                kept = level(position) / level(position - 1)
                x = sqrt(kept) * x + sqrt(1 - kept) * noise(shape).to(x)
            continue
        if call > 0:
            x = torch.where(known > 0, noised(image, now, noise(shape).to(x)), x)
        here, there = level(now), level(after)
        eps = predict_noise(x, TIMES[now])
        x_0 = ((x - sqrt(1 - here) * eps) / sqrt(here)).clamp(-1, 1)
        # the noise that leads from the clipped picture to this state
        eps = (x - sqrt(here) * x_0) / sqrt(1 - here)
        x = sqrt(there) * x_0 + sqrt(1 - there) * eps
    return x


class M2SGuide(NetworkGuide):
    """The two networks with their sampler.

    Attributes:
        coarse, fine: called with states and float step numbers of shape (N,); the first three
            channels of what they give are the noise.
        coarse_stage, fine_stage: how each walks.
        coarse_side: height and width at which `coarse` works.
    """

    def __init__(
        self,
        coarse: UNet,
        fine: UNet,
        stages: tuple[Stage, Stage],
        device: torch.device,
    ) -> None:
        super().__init__(device)
        self.coarse, self.fine = coarse, fine
        self.coarse_stage, self.fine_stage = stages
        self.side = trained_side(fine.config) or USUAL_SIDES[1]
        self.coarse_side = self.side
        if coarse is not fine:
            self.coarse_side = trained_side(coarse.config) or USUAL_SIDES[0]

    @property
    def notes(self) -> tuple[str, ...]:
        calls = (
            f"{stage.calls} network calls at {side} x {side}"
            for stage, side in (
                (self.coarse_stage, self.coarse_side),
                (self.fine_stage, self.side),
            )
        )
        return (*super().notes, f"{' and '.join(calls)} for each window")

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.sample(image, hole, seeded_source(seeds))

    def sample(self, image: Tensor, hole: Tensor, noise: NoiseSource) -> Tensor:
        """Fill the hole.

        Args:
            image: N x 3 x H x W, zeros in the hole.
            hole: N x 1 x H x W, 0 or 1.
            noise: called for the coarse start, by the coarse `walk`, for the noise of the fine
                start, and by the fine `walk`.
        """
        side = self.coarse_side
        small, share = reduce_known(image, 1 - hole, (side, side))
        # as after the published program's 8-bit reduction, half known is known
        rough = self.sample_coarse(small, (share >= 0.5).to(share), noise)
        return self.sample_fine(rough, image, 1 - hole, noise)

    def sample_coarse(self, image: Tensor, known: Tensor, noise: NoiseSource) -> Tensor:
        """The first stage, from noise alone."""
        predict_noise = self._counted(self.coarse, self.coarse_stage, image)
        x = noise(tuple(image.shape)).to(image)
        return walk(predict_noise, x, image, known, noise, self.coarse_stage)

    def sample_fine(
        self, rough: Tensor, image: Tensor, known: Tensor, noise: NoiseSource
    ) -> Tensor:
        """The second stage, from the first one's result."""
        predict_noise = self._counted(self.fine, self.fine_stage, image)
        rough = F.interpolate(rough.clamp(-1, 1), image.shape[-2:], mode="bilinear")
        # noised by one position more than the walk begins at, as published
        x = noised(rough, self.fine_stage.begin, noise(tuple(image.shape)).to(image))
        return walk(predict_noise, x, image, known, noise, self.fine_stage)

    def _counted(self, network: UNet, stage: Stage, image: Tensor) -> PredictNoise:
        size = f"{image.shape[-1]} x {image.shape[-2]}"
        pace = Pace(self.tell, f"guide {self.name} at {size}", stage.calls)

        def predict_noise(x: Tensor, step: int) -> Tensor:
            out: Tensor = network(x, torch.full((len(x),), float(step), device=x.device))
            pace.step()
            return out[:, :IMAGE_CHANNELS]

        return predict_noise


def trained_side(config: UNetConfig) -> int | None:
    """Side of the pictures that a network was trained on; None if its attention does not tell."""
    if len(config.attention_levels) != 1:
        return None
    return ATTENTION_SIDE << config.attention_levels[0]


def config_from_tensors(tensors: Mapping[str, Tensor]) -> UNetConfig:
    """Read the shape of a network off its tensors, under their published names.

    Raises:
        KeyError: a tensor that tells a size is missing.
        WeightsError: a network that wants more than a picture, or of another kind.
    """
    inner = length(tensors, f"{EMBEDDING}0.weight", 1)
    channels = length(tensors, "input_blocks.0.0.weight", 1)
    if "label_emb.weight" in tensors or channels != IMAGE_CHANNELS:
        wanted = "a class" if channels == IMAGE_CHANNELS else f"{channels} channels"
        raise WeightsError(f"the network wants {wanted} for each picture; guides have none to give")
    config = levels_from_state_dict(tensors, inner)
    return dataclasses.replace(config, head_channels=HEAD_CHANNELS)


def load(
    paths: Sequence[Path],
    device: torch.device,
    coarse_begin: int = 250,
    fine_begin: int = 75,
    repeats: int = 10,
    stride: int = 5,
    special_mask: bool = False,
) -> M2SGuide:
    """Load the two checkpoints.

    Args:
        paths: both files in any order, or one whose partner lies beside it.
        device: where the networks run.
        coarse_begin, fine_begin: noise levels of each chain, of 270.
        repeats: each jump back up is walked `repeats` + 1 times; 0 is ten times as fast.
        stride: longest step down.
        special_mask: for holes of single lines or dots, of which a reduced picture keeps nothing:
            the large network takes the coarse chain too, and its file is enough.

    Raises:
        WeightsError: no pair of files, or files that are no such networks.
        UsageError: settings that make no sense.
    """
    stages = (
        Stage(coarse_begin, jump=20, repeats=repeats, interval=15, stride=stride),
        Stage(fine_begin, jump=10, repeats=repeats, interval=10, stride=stride),
    )
    files = paths if special_mask and len(paths) == 1 else _pair(paths)
    networks = [_load_network(path, device) for path in files]
    # the coarse network is the one for smaller pictures, else the one with fewer levels
    networks.sort(key=lambda n: (trained_side(n.config) or 0, len(n.config.channel_mults)))
    coarse, fine = networks[-1 if special_mask else 0], networks[-1]
    return M2SGuide(coarse, fine, stages, device)


def _load_network(path: Path, device: torch.device) -> UNet:
    tensors = {k.removeprefix("module."): v for k, v in read_files([path]).items()}
    with recognising(path, "guided-diffusion network", EXPECTED, tensors):
        config = config_from_tensors(tensors)
        out_channels = length(tensors, "out.2.weight")
    # the step's embedding is computed as Palette's of the noise level is
    names = {k: k.replace(EMBEDDING, "cond_embed.") for k in tensors if k.startswith(EMBEDDING)}
    tensors = {names.get(k, k): v for k, v in tensors.items()}
    with torch.device("meta"):
        network = UNet(config, IMAGE_CHANNELS, out_channels)
    fit(network, tensors, path, device)
    return network


def _pair(paths: Sequence[Path]) -> list[Path]:
    """Both files, from what the user gave."""
    if len(paths) == 2:
        return list(paths)
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths)
        raise WeightsError(f"guide m2s is two checkpoints, not {len(paths)}: {names}")
    path = paths[0]
    sides = (("256", "64"), ("64", "256"))
    partners = [path.name.replace(a, b) for a, b in sides if a in path.name]
    for partner in partners:
        if path.with_name(partner).is_file():
            return [path, path.with_name(partner)]
    raise WeightsError(
        f"guide m2s is two checkpoints, and {path} is one",
        f"put the other beside it ({' or '.join(partners) or 'named alike, with 64 and 256'}),"
        " or give both files, or their folder",
    )
