"""MAT, "Mask-Aware Transformer for Large Hole Image Inpainting" (Li et al., CVPR 2022).

The network takes RGB in [-1, 1] and where it is known (1 = known); it works at the one size it was
trained for, 256 or 512. Three things are left to chance in it, filling included: a random vector,
half of the places where the style that is made of it replaces features, and, if asked for, noise
maps. All are drawn from the seed here, so that a result can be had again.

The published file is a pickle of live modules ("G", "G_ema" and more), each with its source code;
the tensors of "G_ema" are read, and nothing is run. State dicts that others have made of it are
read too, as `.pth` or `.safetensors`, in half precision or without noise maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.mat_network import DEEPEST_SIDE, MAT, RESAMPLE, TOKEN_SIDE, Draws, MATConfig
from d2s_cli.guides.network import (
    NetworkGuide,
    below,
    count_items,
    draw_normal,
    fit,
    for_each,
    length,
    read_files,
    recognising,
    seeded_noise,
)

NOISE_MODES = ("const", "random", "none")
#: tensors that follow from the sizes: the binomial filter and the seams of shifted windows
DERIVED = ("resample_filter", "attn_mask")
FIRST = "synthesis.first_stage."


class MATGuide(NetworkGuide):
    """MAT as a guide.

    Args:
        network: the generator; `network(image, known, draws, psi)` runs it with given draws.
        device: where it is.
        truncation_psi: see `load`.
        noise_mode: see `load`.
    """

    def __init__(
        self, network: MAT, device: torch.device, truncation_psi: float, noise_mode: str
    ) -> None:
        super().__init__(device)
        self.network = network
        self.side = network.config.side
        self.truncation_psi = truncation_psi
        self.noise_mode = noise_mode

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.sample(image, hole, seeds)

    def sample(
        self,
        image: Tensor,
        hole: Tensor,
        seed: int | Sequence[int] = 0,
        draws: Draws | None = None,
    ) -> Tensor:
        """Fill pictures of the network's size.

        Args:
            image: N x 3 x side x side, [-1, 1]; what lies in the hole is not looked at.
            hole: N x 1 x side x side, 0 or 1.
            seed: decides all random numbers; one for all, or one for each.
            draws: numbers to take in place of the seeded ones, to replay a run.

        Returns:
            Like `image`, with the known pixels in it; not yet clipped.
        """
        draws = (draws or self.draw(for_each(seed, len(image)))).to(self.device)
        out: Tensor = self.network(image, 1 - hole, draws, self.truncation_psi)
        return out

    def draw(self, seeds: Sequence[int]) -> Draws:
        """The random numbers of pictures, each from its own seed."""
        config = self.network.config
        generators = seeded_noise(seeds)

        def normal(*shape: int) -> Tensor:
            return draw_normal(generators, shape)

        def coins(*shape: int) -> Tensor:
            return torch.stack([(torch.rand(shape, generator=g) < 0.5).float() for g in generators])

        z = normal(config.latent)
        keep_tokens = coins(DEEPEST_SIDE**2, config.width)
        keep_features = coins(config.channels[-1], DEEPEST_SIDE, DEEPEST_SIDE)
        noise: list[Tensor] = []
        if self.noise_mode == "const":
            noise = self.network.constant_noise()
        elif self.noise_mode == "random":
            noise = [normal(1, side, side) for side in config.noise_sides]
        return Draws(z, keep_tokens, keep_features, noise)


def config_from_tensors(tensors: Mapping[str, Tensor]) -> MATConfig:
    """Sizes of the generator, read off its tensors. The number of heads leaves no trace.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    side = TOKEN_SIDE << count_items(tensors, f"{FIRST}enc_conv.")
    sides = [side >> level for level in range((side // DEEPEST_SIDE).bit_length())]
    layers = [f"{FIRST}tran.{index}.blocks." for index in range(len(RESAMPLE))]
    return MATConfig(
        side=side,
        width=length(tensors, f"{FIRST}conv_first.conv.weight"),
        depths=tuple(count_items(tensors, layer) for layer in layers),
        windows=tuple(
            _window(tensors, layer, published)
            for layer, published in zip(layers, MATConfig.windows, strict=True)
        ),
        hidden=length(tensors, f"{layers[0]}0.mlp.fc1.weight"),
        style_convs=count_items(tensors, f"{FIRST}down_conv."),
        latent=length(tensors, "mapping.fc0.weight", 1),
        style=length(tensors, "mapping.w_avg"),
        mapping=count_items(tensors, "mapping.fc"),
        channels=tuple(
            length(tensors, f"synthesis.enc.EncConv_Block_{s}x{s}.conv0.weight") for s in sides
        ),
        picture_convs=count_items(tensors, "synthesis.to_style.conv."),
        picture_style=length(tensors, "synthesis.to_style.fc.weight"),
        noise=any(name.endswith(".noise_strength") for name in tensors),
    )


def _window(tensors: Mapping[str, Tensor], layer: str, published: int) -> int:
    """Window side of a layer: that of the seams stored with it, or the published one."""
    name = f"{layer}1.attn_mask"
    return math.isqrt(length(tensors, name, 2)) if name in tensors else published


def load(
    paths: Sequence[Path],
    device: torch.device,
    truncation_psi: float = 1.0,
    noise_mode: str = "const",
) -> MATGuide:
    """Read a published pickle, or a state dict made of one.

    Args:
        paths: one file.
        device: where the network runs.
        truncation_psi: below 1, results vary less and are more usual.
        noise_mode: "const" takes the noise maps of the file, "random" draws them, "none" leaves
            them out. Files without noise maps run without.

    Raises:
        UsageError: an option has no such value.
        WeightsError: the file holds no MAT generator.
    """
    if noise_mode not in NOISE_MODES:
        raise UsageError(f"unknown noise_mode {noise_mode!r}", f"one of: {', '.join(NOISE_MODES)}")
    if isinstance(truncation_psi, str) or not 0 <= truncation_psi <= 2:
        raise UsageError(f"truncation_psi must be a number from 0 to 2, not {truncation_psi!r}")
    tensors = read_files(paths)
    tensors = below(tensors, "G_ema.") or tensors
    with recognising(paths[0], "MAT generator", "G_ema.synthesis.*, G_ema.mapping.*", tensors):
        config = config_from_tensors(tensors)
    if config.width % config.heads:
        raise WeightsError(
            f"{paths[0]} holds no MAT generator: {config.width} channels do not divide among"
            f" {config.heads} attention heads"
        )
    if noise_mode == "random" and not config.noise:
        raise WeightsError(
            f"{paths[0]} has no noise strengths, so that random noise has no effect",
            "leave noise_mode out, or use the published .pkl",
        )
    with torch.device("meta"):
        network = MAT(config)
    kept = {k: v for k, v in tensors.items() if k.rpartition(".")[2] not in DERIVED}
    fit(network, kept, paths[0], device)
    return MATGuide(network, device, truncation_psi, noise_mode)
