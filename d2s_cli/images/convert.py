"""The one place where pictures become tensors and tensors pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_unit_range(pictures: NDArray[Any]) -> Tensor:
    """Integer pictures N x H x W x 3 (uint8 or uint16) to float32 N x 3 x H x W in [-1, 1]."""
    peak = np.iinfo(pictures.dtype).max
    scaled = torch.from_numpy(pictures.astype(np.float32)).permute(0, 3, 1, 2)
    return (scaled / (peak / 2) - 1).contiguous()


def from_unit_range(images: Tensor, dtype: Any = np.uint8) -> NDArray[Any]:
    """Float N x 3 x H x W in [-1, 1] to integer pictures N x H x W x 3, rounded and clipped."""
    peak = np.iinfo(dtype).max
    scaled = ((images.float() + 1) * (peak / 2)).round().clamp(0, peak)
    result: NDArray[Any] = scaled.permute(0, 2, 3, 1).cpu().numpy().astype(dtype)
    return result
