"""Fine detail that a correction took off copied texture, brought back.

A network that mends structure averages over what could be there, and leaves what it touched a
little softer than the copy was. Soft beside sharp shows as a seam.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: what is finer than a Gaussian of this deviation is fine detail, pixels
FINE = 1.0
#: deviation of the window in which strengths are compared, pixels
AREA = 8.0
#: this power of the lost factor is brought back: all of it would sharpen edges that are in place
SHARE = 0.5
#: detail is raised to this many times at most
LARGEST_GAIN = 1.6
#: variance of rounding and a little grain, 8-bit levels squared; keeps flat places flat
FLOOR = 1.0


def keep_detail(corrected: Tensor, copied: Tensor, hole: Tensor) -> Tensor:
    """Raise the fine detail of a corrected fill towards the strength that it had in the copy.

    Nothing is taken over from the copy but its strength in the neighbourhood; detail that is as
    strong, or stronger, stays.

    Args:
        corrected, copied: N x 3 x H x W, [-1, 1].
        hole: N x 1 x H x W, 0 or 1.

    Returns:
        Like `corrected`, and equal to it outside of the hole; not clipped.
    """
    detail = corrected - _blurred(corrected, FINE)
    wanted = copied - _blurred(copied, FINE)
    floor = FLOOR / 127.5**2
    variances = torch.cat([x.square().mean(1, keepdim=True) for x in (detail, wanted)], 1)
    covered = _blurred(hole, AREA).clamp(min=1e-4)
    ours, theirs = (_blurred(variances * hole, AREA) / covered + floor).chunk(2, 1)
    gain = (theirs / ours).pow(SHARE / 2).clamp(1, LARGEST_GAIN)
    return torch.where(hole > 0, corrected + (gain - 1) * detail, corrected)


def _blurred(x: Tensor, deviation: float) -> Tensor:
    """Each channel by a Gaussian; the edge is repeated beyond the picture."""
    reach = math.ceil(3 * deviation)
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (places / deviation).square())
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, weights, groups=x.shape[1])
    return F.conv2d(rows, weights.transpose(2, 3), groups=x.shape[1])
