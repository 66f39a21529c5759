"""The adversary of guide training: tells made patches from real ones."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class PatchAdversary(nn.Module):
    """Scores overlapping patches of 46 pixels (Isola et al. 2017), one for each 8 x 8 square."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (4, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            conv = nn.Conv2d(before, after, 4, stride=2, padding=1)
            layers += [spectral_norm(conv), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1)))

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        """Scores N x 1 x H/8 x W/8, high for real."""
        scores: Tensor = self.body(torch.cat([image, 2 * hole - 1], 1))
        return scores.float()


def patches_of(hole: Tensor) -> tuple[int, int]:
    """Rows and columns of the adversary's scores for pictures of this size."""
    return int(hole.shape[-2]) // 8, int(hole.shape[-1]) // 8


def made_patches(hole: Tensor, size: tuple[int, int]) -> Tensor:
    """1 where a patch lies mostly in the hole: only these count as made (LaMa's rule)."""
    return (F.interpolate(hole, size, mode="area") > 0.5).float()


def adversary_loss(real: Tensor, made: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Hinge loss of real patches and of made ones, each summed; `weight` is `made_patches`."""
    return F.relu(1 - real).sum(), (weight * F.relu(1 + made)).sum()


def deceit_loss(made: Tensor, weight: Tensor) -> Tensor:
    """What the guide pays for patches that are told apart, summed."""
    return -(weight * made).sum()
