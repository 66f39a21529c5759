"""Exponential moving average of the weights: the model that is shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: a half-life given in images never exceeds this share of the images seen so far, so that the
#: average leaves the random beginning behind (EDM's ramp-up)
RAMP_UP = 0.1


def ema_decay(images_seen: int, batch: int, halflife: float, decay: float | None) -> float:
    """Factor for the old average at this step.

    Args:
        images_seen: before this step.
        batch: images of this step.
        halflife: in images, ramped up; used if `decay` is None.
        decay: a constant factor, as published (0.9999).
    """
    if decay is not None:
        return decay
    effective = min(halflife, max(images_seen * RAMP_UP, 1e-8))
    return float(0.5 ** (batch / effective))


class Ema:
    """Float32 copies of a module's parameters, updated in place."""

    def __init__(self, module: nn.Module) -> None:
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        state = module.state_dict()
        old = list(self.average.values())
        new = [state[key] for key in self.average]
        torch._foreach_lerp_(old, new, 1 - decay)

    def load(self, average: dict[str, Tensor]) -> None:
        for key, value in self.average.items():
            value.copy_(average[key])
