"""What a correction may do to copied texture: mend colours and edges, not blur, and not haunt.

A network that mends structure averages over what could be there. What it touches gets a little
softer than the copy was, and soft beside sharp shows as a seam. And where it would have something
else altogether, half of that lies over the copy as a ghost: a clean copy looks better.
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
#: mean changes of colour in levels of 255: up to the first one all is kept, from the second on
#: nothing; between them gradually
CORRECTION, GHOST = 8.0, 24.0
#: deviations of the window over which changes are averaged, and of the border between what is kept
#: and what is taken back; how far the latter reaches beyond what is too large; all in pixels
NEAR, SOFTLY, FRINGE = 3.0, 3.0, 8
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


def without_ghosts(corrected: Tensor, copied: Tensor, hole: Tensor) -> Tensor:
    """Take back changes of colour that are too large to be a correction.

    Args, returns: as `keep_detail`.
    """
    change = (corrected - copied) * hole
    covered = _blurred(hole, NEAR).clamp(min=1e-3)
    size = 127.5 * (_blurred(change, NEAR) / covered).square().mean(1, keepdim=True).sqrt()
    excess = ((size - CORRECTION) / (GHOST - CORRECTION)).clamp(0, 1)
    # its fringe is weaker than the ghost, and alone would be left as a ring
    excess = F.max_pool2d(excess, 2 * FRINGE + 1, stride=1, padding=FRINGE)
    kept = _blurred(1 - excess.square() * (3 - 2 * excess), SOFTLY)
    return torch.where(hole > 0, copied + kept * (corrected - copied), corrected)


def _blurred(x: Tensor, deviation: float) -> Tensor:
    """Each channel by a Gaussian; the edge is repeated beyond the picture."""
    reach = math.ceil(3 * deviation)
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (places / deviation).square())
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, weights, groups=x.shape[1])
    return F.conv2d(rows, weights.transpose(2, 3), groups=x.shape[1])
