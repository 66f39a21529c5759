"""WavePaint: a chain of networks that mix features by wavelet transforms.

Jeevan et al., "WavePaint: Resource-efficient Token-mixer for Self-supervised Inpainting", 2023.
Each module halves the picture, mixes features block by block (Haar wavelet transform, 1 x 1 and
transposed convolutions), and adds what it finds to the picture that the next module gets. No
randomness.

Two shapes are published. The first convolution of the networks for CelebA-HQ takes the picture and
a mask; that of the networks for Places takes the picture alone. Both work on RGB in [0, 1] with
zeros in the hole, and what they give may lie outside of that range. The published training passes
the hole as mask; a later script of the authors passes the known part, so `mask_channel` can say
"known". Files: plain state dicts.

Blocks that use two or three levels of the transform are those of the package wavemix. The published
code for three levels names a block that was never published: such files load if their tensors fit
wavemix's, but whether their results are the authors' is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.network import (
    NetworkGuide,
    below,
    count_items,
    fit,
    from_zero_to_one,
    length,
    prefix_before,
    read_files,
    recognising,
)

#: the first convolution; no other network in a checkpoint has one of this name
STEM = "wavemodules.0.conv.0.weight"


@dataclass(frozen=True)
class WavePaintConfig:
    """Sizes of the network.

    Attributes:
        given: 4 if the modules see a mask beside the picture, 3 if the picture alone.
        modules: modules in the chain.
        blocks: wave blocks of a module.
        levels: how often a block halves its features by the wavelet transform.
        width: channels of the features.
        hidden: channels between a block's two 1 x 1 convolutions.
        narrow: channels after them.
    """

    given: int = 4
    modules: int = 8
    blocks: int = 4
    levels: int = 1
    width: int = 128
    hidden: int = 256
    narrow: int = 128


def config_from_tensors(tensors: Mapping[str, Tensor]) -> WavePaintConfig:
    """Sizes of a network from its tensors, by their names from "wavemodules." on.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """

    block = "wavemodules.0.layers.0."
    levels = max(1, count_items(tensors, f"{block}feedforward"))
    mixing = block + mixing_names(levels)[0]
    return WavePaintConfig(
        given=length(tensors, STEM, axis=1),
        modules=count_items(tensors, "wavemodules."),
        blocks=count_items(tensors, "wavemodules.0.layers."),
        levels=levels,
        width=length(tensors, "wavemodules.0.conv.1.weight"),
        hidden=length(tensors, f"{mixing}.0.weight"),
        narrow=length(tensors, f"{mixing}.3.weight"),
    )


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the Haar wavelet transform: N x C x H x W to halves.

    Returns:
        The means, N x C x H/2 x W/2, and the differences, N x 3C x H/2 x W/2: of each channel those
        of rows, of columns, and of both.
    """
    corners = F.pixel_unshuffle(x, 2)
    a, b, c, d = (corners[:, i::4] for i in range(4))
    high = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2)
    return (a + b + c + d) / 2, high.flatten(1, 2) / 2


class WaveBlock(nn.Module):
    """Mixes the features of each level of a wavelet transform, from the smallest up."""

    def __init__(self, config: WavePaintConfig) -> None:
        super().__init__()
        width, half = config.width, config.width // 2
        self.reduction = nn.Conv2d(width, width // 4, 1)
        self.names = mixing_names(config.levels)
        for level, name in enumerate(self.names, start=1):
            given = width if level == config.levels else width + half
            made = width if level == 1 else half
            mixing = nn.Sequential(
                nn.Conv2d(given, config.hidden, 1),
                nn.GELU(),
                nn.Dropout(),
                nn.Conv2d(config.hidden, config.narrow, 1),
                nn.ConvTranspose2d(config.narrow, made, 4, stride=2, padding=1),
                nn.BatchNorm2d(made),
            )
            self.add_module(name, mixing)

    def forward(self, x: Tensor) -> Tensor:
        low = self.reduction(x)
        bands: list[list[Tensor]] = []
        for _ in self.names:
            low, high = haar(low)
            bands.append([low, high])
        mixed: list[Tensor] = []
        for name, band in zip(reversed(self.names), reversed(bands), strict=True):
            mixed = [self.get_submodule(name)(torch.cat(band + mixed, dim=1))]
        return mixed[0]


def mixing_names(levels: int) -> list[str]:
    """Published names of the layers that mix a level's features, from the finest level on."""
    return [f"feedforward{n + 1}" for n in range(levels)] if levels > 1 else ["feedforward"]


class WaveModule(nn.Module):
    """One network of the chain: N x 3 x H x W, and a mask if it takes one, to N x 3 x H x W."""

    def __init__(self, config: WavePaintConfig) -> None:
        super().__init__()
        width, half = config.width, config.width // 2
        self.conv = nn.Sequential(
            nn.Conv2d(config.given, half, 3, padding=1),
            nn.Conv2d(half, width, 3, stride=2, padding=1),
        )
        self.layers = nn.ModuleList(WaveBlock(config) for _ in range(config.blocks))
        self.depthconv = nn.Sequential(
            nn.Conv2d(width, width, 5, padding="same", groups=width),
            nn.GELU(),
            nn.BatchNorm2d(width),
        )
        self.decoder1 = nn.Sequential(
            nn.ConvTranspose2d(2 * width, half, 4, stride=2, padding=1), nn.BatchNorm2d(half)
        )
        self.decoder2 = nn.Sequential(nn.Conv2d(half + 3, 3, 1))
        self.sees_mask = config.given == 4

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x = start = self.conv(torch.cat([image, mask], dim=1) if self.sees_mask else image)
        for block in self.layers:
            x = block(x) + x
        x = self.decoder1(torch.cat([self.depthconv(x), start], dim=1))
        out: Tensor = self.decoder2(torch.cat([x, image], dim=1))
        return out


class WavePaintNetwork(nn.Module):
    """(N x 3 x H x W in [0, 1] with zeros in the hole, N x 1 x H x W) to the filled picture, not
    clipped. Height and width are multiples of 2 to the levels + 1.

    Args:
        config: sizes.
        mask_channel: what modules that see a mask get as such, "hole" or "known".
    """

    def __init__(self, config: WavePaintConfig, mask_channel: str = "hole") -> None:
        super().__init__()
        self.mask_channel = mask_channel
        self.wavemodules = nn.ModuleList(WaveModule(config) for _ in range(config.modules))

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        x, mask = image, hole if self.mask_channel == "hole" else 1 - hole
        for module in self.wavemodules:
            x = module(x, mask) + x
        return x * hole + image * (1 - hole)


class WavePaint(NetworkGuide):
    """The guide. `network` is the published network, to be called as `WavePaintNetwork` says."""

    def __init__(
        self, network: WavePaintNetwork, config: WavePaintConfig, device: torch.device
    ) -> None:
        super().__init__(device)
        self.network = network
        self.config = config
        self.multiple = self.smallest = 2 ** (config.levels + 1)

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        filled: Tensor = self.network(from_zero_to_one(image, hole), hole)
        return 2 * filled - 1


def load(paths: Sequence[Path], device: torch.device, mask_channel: str = "hole") -> WavePaint:
    """Read a published state dict of either shape.

    Args:
        paths: the file.
        device: where the network runs.
        mask_channel: see `WavePaintNetwork`.

    Raises:
        UsageError: another `mask_channel`.
        WeightsError: no WavePaint network in the file, or one of another structure.
    """
    if mask_channel not in ("hole", "known"):
        raise UsageError(f"mask_channel of guide wavepaint is hole or known, not {mask_channel}")
    tensors = read_files(paths)
    state = below(tensors, prefix_before(tensors, STEM) or "")
    with recognising(paths[0], "WavePaint network", STEM, tensors):
        config = config_from_tensors(state)
    if config.given not in (3, 4) or config.width % 4:
        raise WeightsError(
            f"{paths[0]} holds no WavePaint network: its modules take {config.given} channels, not"
            f" 3 or 4, or their {config.width} features do not divide by 4"
        )
    with torch.device("meta"):
        network = WavePaintNetwork(config, mask_channel)
    fit(network, state, paths[0], device)
    return WavePaint(network, config, device)
