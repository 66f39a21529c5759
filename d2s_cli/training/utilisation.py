"""How well a run uses its machine: arithmetic done, against what convolutions reach there."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from d2s_cli.diffusion.unet import IMAGE_CHANNELS, UNet, UNetConfig
from d2s_cli.runtime import Compute

#: forward once and backward, which is twice as much
PASSES = 3
#: of the trial: pictures, channels and side, by kind of device
TRIAL = {"cuda": (32, 256, 128), "mps": (8, 128, 64), "cpu": (1, 64, 64)}
#: seconds that the trial runs
TRIAL_SECONDS = 0.2


@cache
def operations(config: UNetConfig, size: int) -> float:
    """Floating-point operations of training on one picture: products and sums of convolutions,
    linear layers and attention.

    Args:
        config: of the network.
        size: side of the picture, pixels.
    """
    multiple = config.size_multiple
    side = -(-size // multiple) * multiple
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        UNet(config)(torch.empty(1, 2 * IMAGE_CHANNELS, side, side), torch.empty(1))
    return float(PASSES * counter.get_total_flops())


@cache
def convolution_rate(compute: Compute) -> float:
    """Operations a second of a 3 x 3 convolution that suits the device, forward and backward."""
    items, channels, side = TRIAL.get(compute.device.type, TRIAL["cpu"])
    layout = torch.channels_last
    x = torch.randn(items, channels, side, side, device=compute.device)
    kernel = torch.randn(channels, channels, 3, 3, device=compute.device)
    x = x.contiguous(memory_format=layout).requires_grad_()
    kernel = kernel.contiguous(memory_format=layout).requires_grad_()

    def once() -> None:
        with compute.network_precision():
            out = F.conv2d(x, kernel, padding=1)
        out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]

    once()
    rounds, seconds = 1, 0.0
    while True:
        _wait(compute.device)
        began = time.perf_counter()
        for _ in range(rounds):
            once()
        _wait(compute.device)
        seconds = time.perf_counter() - began
        if seconds >= TRIAL_SECONDS:
            break
        rounds *= 2
    return PASSES * 2 * 9 * channels**2 * items * side**2 * rounds / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Meter:
    """Operations of a run's recent steps, against the machine's rate.

    Args:
        config: of the network.
        compute: where it runs.
        ranks: processes at work, each with such a device.
    """

    def __init__(self, config: UNetConfig, compute: Compute, ranks: int) -> None:
        self._config, self._compute, self._ranks = config, compute, ranks
        self._done = 0.0
        self._machine: float | None = None

    def add(self, size: int, items: int) -> None:
        """Count a step on `items` pictures of this side."""
        self._done += items * operations(self._config, size)

    def take(self, seconds: float) -> tuple[float, float]:
        """Operations a second since the last call, and as a share of the machine's rate."""
        if self._machine is None:
            self._machine = self._ranks * convolution_rate(self._compute)
        rate, self._done = self._done / seconds, 0.0
        return rate, rate / self._machine
