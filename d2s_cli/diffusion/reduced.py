"""Corrections of pictures that are too large for a network, made at reduced size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

#: image, hole, guide -> corrected guide; shapes as in `correct_reduced`, but smaller
Correct = Callable[[Tensor, Tensor, Tensor], Tensor]
#: no side is reduced below this
SMALLEST = 8


def correct_reduced(
    correct: Correct, image: Tensor, hole: Tensor, guide: Tensor, longest: int
) -> Tensor:
    """Correct a large hole's guide at reduced size, where the network sees all of it.

    The correction (corrected minus given, both reduced) is enlarged and added, so the guide keeps
    its own fine texture.

    Args:
        correct: works on the reduced pictures.
        image, guide: N x 3 x H x W, [-1, 1].
        hole: N x 1 x H x W, 0 or 1; touched pixels of the reduced one are hole.
        longest: length of the longer side after reduction.

    Returns:
        Like `guide`, in [-1, 1]; `image` outside of the hole.
    """
    height, width = image.shape[-2:]
    scale = longest / max(height, width)
    size = (max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale)))

    def reduce(x: Tensor) -> Tensor:
        return F.interpolate(x, size=size, mode="area")

    given = reduce(guide)
    corrected = correct(reduce(image), (reduce(hole) > 0).float(), given)
    correction = F.interpolate(corrected - given, size=(height, width), mode="bilinear")
    return torch.where(hole > 0, (guide + correction).clamp(-1, 1), image)
