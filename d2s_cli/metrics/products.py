"""Products of large matrices whose result is symmetric, computed for one half only."""

from __future__ import annotations

import torch
from torch import Tensor

#: columns that are worked on together
BLOCK = 256


def gram(rows: Tensor) -> Tensor:
    """rows^T rows, D x D, for rows N x D: little more than half the work of the plain product."""
    size = rows.shape[1]
    result = torch.empty(size, size, dtype=rows.dtype)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        part = rows[:, start:end].T @ rows[:, :end]
        result[start:end, :end] = part
        result[:end, start:end] = part.T
    return result


def between_triangles(lower: Tensor, middle: Tensor) -> Tensor:
    """lower^T middle lower, of a lower triangular and a symmetric matrix: a third of the work of
    the plain products. Only the result's lower triangle is filled in."""
    size = lower.shape[0]
    right, result = torch.empty_like(middle), torch.zeros_like(middle)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        # a column of the triangle begins at its own row
        right[:, start:end] = middle[:, start:] @ lower[start:, start:end]
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        result[start:end, :end] = lower[start:, start:end].T @ right[start:, :end]
    return result
