"""The smooth fill that a correcting network sees beside the first result.

Either colours of the surroundings alone, or Telea's fill as another network corrects it: that one
was trained on smooth fills, and guesses edges that copied texture got wrong.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from d2s_cli.guides.fill_network import FillNetwork
from d2s_cli.guides.opencv import opencv_fill
from d2s_cli.images.convert import from_unit_range, to_unit_range


def smooth_fill(
    image: Tensor, hole: Tensor, smoother: FillNetwork | None = None, soft: Tensor | None = None
) -> Tensor:
    """Fill holes smoothly.

    Args:
        image: N x 3 x H x W, [-1, 1]; what it holds in the hole is not used.
        hole: N x 1 x H x W, 0 or 1. With a smoother, height and width are multiples of 8.
        smoother: corrects Telea's fill; None has `push_pull` alone.
        soft: `telea_fill` of the same, where it was made before.

    Returns:
        Like `image`.
    """
    pulled = push_pull(image, hole)
    if smoother is None:
        return pulled
    soft = telea_fill(image, hole) if soft is None else soft
    corrected: Tensor = smoother(torch.where(hole > 0, soft, image), pulled, hole)
    return corrected.clamp(-1, 1)


def telea_fill(image: Tensor, hole: Tensor) -> Tensor:
    """OpenCV's fill after Telea of N x 3 x H x W in [-1, 1], rounded to 8 bits, on its device."""
    holes = hole[:, 0].cpu().numpy() > 0
    pictures = np.where(holes[..., None], np.uint8(0), from_unit_range(image))
    filled = [opencv_fill(p, h, "telea") for p, h in zip(pictures, holes, strict=True)]
    return to_unit_range(np.stack(filled)).to(image)


def push_pull(image: Tensor, hole: Tensor) -> Tensor:
    """Fill holes with colours of their surroundings, smoothly, at any hole size.

    Averages of the known pixels over ever larger squares (push), then each unknown pixel from the
    finest square that knows something (pull; Gortler et al. 1996).

    Args:
        image: N x 3 x H x W; what it holds in the hole is not used.
        hole: N x 1 x H x W, 0 or 1. If nothing is known, the result is 0 there.
    """
    weight = 1 - hole
    levels = [(image * weight, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        levels.append(
            (_halved(levels[-1][0]), _halved(levels[-1][1])),
        )
    colour = _mean_colour(*levels[-1])
    for total, known in reversed(levels[:-1]):
        size = (int(total.shape[-2]), int(total.shape[-1]))
        coarse = F.interpolate(colour, size, mode="bilinear", align_corners=False)
        colour = torch.lerp(coarse, _mean_colour(total, known), (4 * known).clamp(max=1))
    return torch.where(hole > 0, colour, image)


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _mean_colour(total: Tensor, known: Tensor) -> Tensor:
    return total / known.clamp(min=1e-6)
