"""LaMa: large holes filled by convolutions on the picture and on its spectrum.

Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions", WACV 2022. The
middle of the network has two branches that exchange their features: a local one of 3 x 3
convolutions, and a global one that convolves the Fourier transform, so that every pixel sees the
whole picture. No randomness.

The published networks differ in the number of blocks (9 for CelebA-HQ and Places, 18 in big-lama).
They take RGB in [0, 1] with zeros in the hole and, as a fourth channel, the hole; they give RGB in
[0, 1]. Files: the authors' Lightning checkpoints (names below "generator."), and TorchScript
archives of them, of which only the tensors are read. lama-regular, without Fourier convolutions, is
another network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from d2s_cli.guides.network import (
    NetworkGuide,
    below,
    fit,
    from_zero_to_one,
    length,
    prefix_before,
    read_files,
    recognising,
)

#: the first convolution; no other network in a checkpoint has one of this name
STEM = "model.1.ffc.convl2l.weight"

#: features or numbers of channels of the local and the global branch
Pair = tuple[Tensor | None, Tensor | None]
Channels = tuple[int, int]


@dataclass(frozen=True)
class LamaConfig:
    """Sizes of the network.

    Attributes:
        widths: channels at the picture's own size and after each halving.
        spectral: how many of the last are the global branch's.
        blocks: residual blocks in the middle.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    spectral: int = 384
    blocks: int = 18


def config_from_tensors(tensors: Mapping[str, Tensor]) -> LamaConfig:
    """Sizes of a network from its tensors, by their names from "model." on.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """

    def made(layer: int, branch: str) -> int:
        name = f"model.{layer}.ffc.convl2{branch}.weight"
        return length(tensors, name) if name in tensors else 0

    widths, spectral = [length(tensors, STEM)], 0
    while outputs := made(len(widths) + 1, "l") + made(len(widths) + 1, "g"):
        spectral = made(len(widths) + 1, "g")
        widths.append(outputs)
    blocks = {name.split(".")[1] for name in tensors if ".conv1.ffc." in name}
    return LamaConfig(tuple(widths), spectral, len(blocks))


class SpectrumConv(nn.Module):
    """A 1 x 1 convolution of the Fourier transform, real and imaginary parts as channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))
        parts = spectrum.permute(0, 1, 4, 2, 3).flatten(1, 2)
        parts = self.bn(self.conv_layer(parts)).relu()
        spectrum = parts.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2).contiguous()
        size = (x.shape[-2], x.shape[-1])
        out: Tensor = torch.fft.irfft2(torch.view_as_complex(spectrum), s=size, norm="ortho")
        return out


class SpectralBranch(nn.Module):
    """Global features to global features, at half the channels in between."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        half = made // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(given, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()
        )
        self.fu = SpectrumConv(half)
        self.conv2 = nn.Conv2d(half, made, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        out: Tensor = self.conv2(x + self.fu(x))
        return out


class FourierConv(nn.Module):
    """Four ways between the two branches, then norm and ReLU for each. A branch may be absent."""

    def __init__(
        self, given: Channels, made: Channels, kernel: int = 3, stride: int = 1, padding: int = 1
    ) -> None:
        super().__init__()
        self.ffc = nn.ModuleDict()
        for source, n_in in zip("lg", given, strict=True):
            for target, n_out in zip("lg", made, strict=True):
                if n_in and n_out:
                    self.ffc[f"conv{source}2{target}"] = (
                        SpectralBranch(n_in, n_out)
                        if source == target == "g"
                        else nn.Conv2d(
                            *(n_in, n_out, kernel, stride, padding),
                            bias=False,
                            padding_mode="reflect",
                        )
                    )
        self.bn_l = nn.BatchNorm2d(made[0]) if made[0] else None
        self.bn_g = nn.BatchNorm2d(made[1]) if made[1] else None

    def forward(self, x: Pair) -> Pair:
        return self._branch("l", self.bn_l, x), self._branch("g", self.bn_g, x)

    def _branch(self, target: str, norm: nn.Module | None, x: Pair) -> Tensor | None:
        if norm is None:
            return None
        parts = [
            self.ffc[f"conv{source}2{target}"](features)
            for source, features in zip("lg", x, strict=True)
            if features is not None
        ]
        out: Tensor = norm(sum(parts)).relu()
        return out


class FourierBlock(nn.Module):
    """Two Fourier convolutions and what went in."""

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.conv1 = FourierConv(channels, channels)
        self.conv2 = FourierConv(channels, channels)

    def forward(self, x: Pair) -> Pair:
        local, spectral = (
            None if old is None else old + new
            for old, new in zip(x, self.conv2(self.conv1(x)), strict=True)
        )
        return local, spectral


class Split(nn.Module):
    """One tensor as local features; nothing is on the global branch yet."""

    def forward(self, x: Tensor) -> Pair:
        return x, None


class Join(nn.Module):
    """Both branches as one tensor."""

    def forward(self, x: Pair) -> Tensor:
        return torch.cat([features for features in x if features is not None], dim=1)


class LamaNetwork(nn.Module):
    """N x 4 x H x W (RGB in [0, 1] with zeros in the hole, then the hole) to N x 3 x H x W in
    [0, 1]. Height and width are multiples of 2 to the number of halvings."""

    def __init__(self, config: LamaConfig) -> None:
        super().__init__()
        *outer, inner = config.widths
        splits: list[Channels] = [(width, 0) for width in outer]
        splits.append((inner - config.spectral, config.spectral))
        layers: list[nn.Module] = [
            nn.Sequential(nn.ReflectionPad2d(3), Split()),
            FourierConv((4, 0), splits[0], kernel=7, padding=0),
        ]
        for given, made in pairwise(splits):
            layers.append(FourierConv(given, made, stride=2))
        layers += [FourierBlock(splits[-1]) for _ in range(config.blocks)]
        layers.append(Join())
        rising = config.widths[::-1]
        for n_in, n_out in pairwise(rising):
            layers.append(nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1))
            layers += [nn.BatchNorm2d(n_out), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(rising[-1], 3, 7), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class Lama(NetworkGuide):
    """The guide. `network` is the published network, to be called as `LamaNetwork` says."""

    def __init__(self, network: LamaNetwork, config: LamaConfig, device: torch.device) -> None:
        super().__init__(device)
        self.network = network
        self.config = config
        self.multiple = 2 ** (len(config.widths) - 1)
        # mirrored borders: one pixel at the smallest size, three at the picture's own
        self.smallest = max(4, 2 * self.multiple)

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        known = from_zero_to_one(image, hole)
        filled: Tensor = self.network(torch.cat([known, hole], dim=1))
        return 2 * filled - 1


def load(paths: Sequence[Path], device: torch.device) -> Lama:
    """Read a checkpoint of the authors or a TorchScript archive of one (its code is not run).

    Raises:
        WeightsError: no LaMa network in it, or one of another structure.
    """
    tensors = read_files(paths)
    prefix = prefix_before(tensors, STEM) or ""
    state = {f"model.{k}": v for k, v in below(tensors, f"{prefix}model.").items()}
    # lama-regular, whose names are others, is told apart by them
    with recognising(paths[0], "Fourier network of LaMa", STEM, tensors):
        config = config_from_tensors(state)
    with torch.device("meta"):
        network = LamaNetwork(config)
    fit(network, state, paths[0], device)
    return Lama(network, config, device)
