"""Timings: medians with their spread, taken in turns so that a busy machine troubles all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.runtime import Compute


@dataclass(frozen=True)
class Timing:
    """Seconds of one piece of work.

    Attributes:
        median: over the runs.
        low, high: fastest and slowest run.
        runs: how many.
    """

    median: float
    low: float
    high: float
    runs: int


def time_in_turns(
    work: Mapping[str, Callable[[], object]], device: torch.device, runs: int
) -> dict[str, Timing]:
    """Run each piece once unmeasured, then all of them in turns `runs` times."""

    def once(piece: Callable[[], object]) -> float:
        began = time.perf_counter()
        piece()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    for piece in work.values():
        once(piece)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, piece in work.items():
            seconds[name].append(once(piece))
    return {
        name: Timing(statistics.median(taken), min(taken), max(taken), runs)
        for name, taken in seconds.items()
    }


#: 3x3 convolutions to measure the chip by: channels and side
CONVOLUTIONS = ((64, 128), (128, 64), (256, 32))


def convolution_work(
    compute: Compute, batch: int = 1
) -> dict[str, tuple[Callable[[], object], float]]:
    """Convolutions alone, in the network's number format: work and its FLOPs, by name."""
    work: dict[str, tuple[Callable[[], object], float]] = {}
    for channels, side in CONVOLUTIONS:
        x = torch.randn(batch, channels, side, side, device=compute.device).to(compute.dtype)
        weight = torch.randn(channels, channels, 3, 3, device=compute.device).to(compute.dtype)
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        flops = 2.0 * 9 * channels**2 * side**2 * batch

        def run(x: torch.Tensor = x, weight: torch.Tensor = weight) -> object:
            with torch.inference_mode():
                for _ in range(4):
                    out = F.conv2d(x, weight, padding=1)
            return out

        work[f"3x3 convolution, {channels} channels at {side}"] = (run, 4 * flops)
    return work


def network_flops(refiner: Refiner, side: int, inject: bool) -> float:
    """FLOPs (2 a multiply-add) of one prediction for a side x side window."""
    x = torch.zeros(1, 3, side, side, device=refiner.device)
    level = torch.full((1,), 0.9, device=refiner.device)
    # the counter does not know the CPU's fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        refiner.predict(x, x, level, x if inject else None)
    return float(counter.get_total_flops())
