"""Which random holes the refiner is trained on."""

from __future__ import annotations

import numpy as np

from d2s_cli.images.draw_masks import Hole, mat_mask, scratch_mask

#: how often each kind is drawn for the bundled weights' recipe
MIXTURE = {"large": 0.45, "small": 0.30, "scratch": 0.25}


def mixed_mask(rng: np.random.Generator, size: int) -> Hole:
    """MAT's large and small masks and scratches, in the proportions of MIXTURE."""
    kind = rng.choice(list(MIXTURE), p=list(MIXTURE.values()))
    return scratch_mask(rng, size) if kind == "scratch" else mat_mask(rng, size, str(kind))
