"""Devices, number formats and memory: the only module that knows them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from d2s_cli.errors import DeviceError, UsageError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where the network runs and in which number format; states are float32 everywhere.

    Attributes:
        device: a torch device.
        dtype: format of the network's convolutions and products.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32

    @contextlib.contextmanager
    def network_precision(self) -> Iterator[None]:
        """Run the network's operations in `dtype`, under inference or training."""
        if self.dtype == torch.float32:
            yield
            return
        with torch.autocast(self.device.type, dtype=self.dtype):
            yield

    def spare_threads(self) -> int:
        """Threads for work beside the network: where it runs on the CPU, two cores are its own."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        spare = (cores or 1) - (2 if self.device.type == "cpu" else 0)
        return max(0, min(4, spare))

    def __str__(self) -> str:
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        return f"{_device_name(self.device)}, {names[self.dtype]}"


def pick(device: str = "auto", precision: str = "auto") -> Compute:
    """The device and number format to use.

    Args:
        device: auto, cpu, cuda, cuda:N or mps. A named device is never swapped for another.
        precision: auto, fp32, bf16 or fp16.

    Raises:
        DeviceError: the named device is not there.
        UsageError: the name means nothing.
    """
    chosen = _pick_device(device)
    if precision == "auto":
        return Compute(chosen, _best_dtype(chosen))
    if precision not in PRECISIONS:
        raise UsageError(
            f"unknown precision {precision!r}", f"one of: auto, {', '.join(PRECISIONS)}"
        )
    if precision == "fp16" and chosen.type == "cpu":
        raise UsageError("fp16 does not run on the CPU", "try: --precision bf16, or fp32")
    return Compute(chosen, PRECISIONS[precision])


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"unknown device {name!r}", "one of: auto, cpu, cuda, cuda:N, mps"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            built = "" if torch.version.cuda else "; this torch is built without CUDA"
            raise DeviceError(
                f"device {name} is not there: {count} CUDA device(s) found{built}",
                "try: --device cpu, or --device auto",
            )
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps is not there", "try: --device cpu, or --device auto")
    if device.type not in ("cpu", "mps"):
        raise UsageError(f"unknown device {name!r}", "one of: auto, cpu, cuda, cuda:N, mps")
    return device


def _best_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it, else float32. Emulated bf16 is far slower."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32
    if device.type == "cpu" and cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def channels_last(module: nn.Module) -> None:
    """Store convolution weights with channels innermost, where convolutions are fastest."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device. To a CUDA device through pinned memory: the program does not wait for what
    the device does meanwhile, and draws the next noise."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def store_as_computed(module: nn.Module, compute: Compute) -> None:
    """Store weights of convolutions and products in the number format that they are used in.

    autocast would convert them anew at every call; the results are the same, bit for bit. For
    inference only: training needs its weights in float32.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            layer.to(compute.dtype)


def cpu_has_bf16() -> bool:
    """True if this CPU has bf16 products (AVX512_BF16 or AMX)."""
    flags = cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_flags() -> frozenset[str]:
    """Instruction set names of the first CPU as Linux lists them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "mps":
        return "Apple GPU (mps)"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


#: largest deviation from double precision that a working device shows, relative to the result
PRECISION_LIMITS = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 8e-2}


def precisions_to_test() -> list[Compute]:
    """Every device here with every number format that `pick` may choose for it."""
    found = [Compute(torch.device("cpu"))]
    if cpu_has_bf16():
        found.append(Compute(torch.device("cpu"), torch.bfloat16))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", index)
        found += [Compute(device), Compute(device, torch.float16)]
        if torch.cuda.is_bf16_supported(False):
            found.append(Compute(device, torch.bfloat16))
    if torch.backends.mps.is_available():
        found.append(Compute(torch.device("mps")))
    return found


def precision_error(compute: Compute) -> float:
    """Largest deviation of a small convolution from double precision, relative to the result.

    Raises:
        RuntimeError: the device cannot run it.
    """
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 16, 24, 24, generator=generator)
    kernel = torch.randn(16, 16, 3, 3, generator=generator)
    exact = nn.functional.conv2d(picture.double(), kernel.double())
    with torch.inference_mode(), compute.network_precision():
        out = nn.functional.conv2d(picture.to(compute.device), kernel.to(compute.device))
    return float((out.cpu().double() - exact).abs().max() / exact.abs().max())


def within_limits(compute: Compute, error: float) -> bool:
    """True if `precision_error` is what the number format explains; False for NaN too."""
    names = {dtype: name for name, dtype in PRECISIONS.items()}
    return error <= PRECISION_LIMITS[names[compute.dtype]]


def peak_memory() -> dict[str, int]:
    """Most bytes that were in use at once so far, by place; empty where the system does not say."""
    found = {}
    try:
        import resource
    except ImportError:  # not on Windows
        resource = None  # type: ignore[assignment]
    if resource is not None:
        unit = 1 if platform.system() == "Darwin" else 1024
        places = {
            "this process": resource.RUSAGE_SELF,
            "programs that it ran": resource.RUSAGE_CHILDREN,
        }
        for place, who in places.items():
            if size := resource.getrusage(who).ru_maxrss:
                found[place] = size * unit
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if size := torch.cuda.max_memory_allocated(index):
            found[f"cuda:{index}"] = size
    return found


def give_back_memory() -> None:
    """Give memory that is free back to the system, where the C library (glibc) keeps it.

    Pictures of many sizes leave gaps in the heap, and a long run would seem to grow.
    """
    if platform.system() != "Linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
