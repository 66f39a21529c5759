"""What `d2s bench` measures, section by section."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from d2s_cli.bench.measure import Timing, convolution_work, network_flops, time_in_turns
from d2s_cli.bench.photos import PhotoBench
from d2s_cli.bench.published import published_copy, refine_as_published
from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.guides.lama import LamaConfig, LamaNetwork
from d2s_cli.recipe import FALLBACK, Settings

#: steps of the published way that are run; the others cost the same, so time is scaled up
PUBLISHED_RUN = 4
PUBLISHED_STEPS = 200
WINDOW = 256


@dataclass(frozen=True)
class Section:
    """A table: a title, names of columns, and rows of text or numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        runs: of each piece.
        batches: windows of 256 at a time.
        photos: megapixels.
        holes: in a picture; their pixels are the same in all.
        files: pictures in the folder run.
    """

    runs: int = 5
    batches: tuple[int, ...] = (1, 8)
    photos: tuple[float, ...] = (0.3, 3, 12)
    holes: tuple[int, ...] = (1, 10, 100)
    files: int = 8


QUICK = Extent(3, (1,), (0.3, 12), (1, 100), 4)
FULL = Extent(7, (1, 8, 64), (0.3, 3, 12, 50), (1, 10, 100), 16)


def machine(refiner: Refiner) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": str(refiner.compute),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "weights": refiner.name,
    }


def run_bench(
    refiner: Refiner, settings: Settings, extent: Extent, parts: tuple[str, ...]
) -> Iterator[Section]:
    """Measure; sections come as they are ready."""
    sections: dict[str, Callable[[], Section]] = {
        "network": lambda: network_section(refiner, extent),
        "refine": lambda: refine_section(refiner, settings, extent),
        "photos": lambda: photo_section(settings, extent),
    }
    for part in parts:
        yield sections[part]()


def network_section(refiner: Refiner, extent: Extent) -> Section:
    """One call of the network against bare convolutions in the same run."""
    compute = refiner.compute
    work: dict[str, Callable[[], object]] = {}
    flops: dict[str, float] = {}
    for name, (piece, count) in convolution_work(compute).items():
        work[name], flops[name] = piece, count
    one = network_flops(refiner, WINDOW, inject=False)
    for batch in extent.batches:
        name = f"network, {batch} window{'s' if batch > 1 else ''} of {WINDOW}"
        x = torch.randn(batch, 3, WINDOW, WINDOW, device=compute.device)
        level = torch.full((1,), 0.9, device=compute.device)

        def call(x: torch.Tensor = x, level: torch.Tensor = level) -> object:
            with torch.inference_mode():
                return refiner.predict(x, x, level)

        work[name], flops[name] = call, one * batch
    timings = time_in_turns(work, compute.device, extent.runs)
    best = max(flops[n] / timings[n].low for n in work if "convolution" in n)
    section = Section(
        "Network against convolutions", ("work", "ms", "GFLOP/s", "of the best convolution")
    )
    for name, timing in timings.items():
        rate = flops[name] / timing.low
        section.rows.append(
            (name, _span(timing, 1e3), round(rate / 1e9, 1), f"{100 * rate / best:.0f} %")
        )
    return section


def refine_section(refiner: Refiner, settings: Settings, extent: Extent) -> Section:
    """One 256 window: d2s' default against the published way of computing."""
    device, table = refiner.device, NoiseTable(1000)
    image = torch.rand(1, 3, WINDOW, WINDOW, device=device) * 2 - 1
    hole = torch.zeros(1, 1, WINDOW, WINDOW, device=device)
    hole[..., 64:192, 64:192] = 1
    measured = refiner.config.defaults
    chosen = FALLBACK | measured.get(settings.guide, measured.get("telea", {}))
    steps, sampler = int(chosen["steps"]), str(chosen["sampler"])
    copy = published_copy(refiner.unet)
    levels = range(PUBLISHED_STEPS, PUBLISHED_STEPS - PUBLISHED_RUN, -1)

    def published() -> object:
        prediction = refiner.config.prediction
        return refine_as_published(copy, prediction, image, hole, image, levels, table)

    def ours(steps: int, inject: bool) -> Callable[[], object]:
        return lambda: refiner.refine(
            image, hole, image, tk=200, steps=steps, sampler=sampler, inject=inject
        )

    lama = LamaNetwork(LamaConfig()).eval().requires_grad_(False).to(device)

    def lama_pass() -> object:
        with torch.inference_mode():
            return lama(torch.cat([image, hole], dim=1))

    names = {
        f"published way, {PUBLISHED_STEPS} steps, injection": published,
        f"d2s, {steps} steps of {sampler} (default)": ours(steps, bool(chosen["inject"])),
        f"d2s, 20 steps of {sampler}, injection": ours(20, True),
        "one pass of LaMa's network (51 M), float32": lama_pass,
    }
    timings = time_in_turns(names, device, extent.runs)
    first = next(iter(names))
    scale = PUBLISHED_STEPS / PUBLISHED_RUN
    whole = timings[first]
    timings[first] = Timing(whole.median * scale, whole.low * scale, whole.high * scale, whole.runs)
    section = Section(
        f"Refining one {WINDOW} window ({PUBLISHED_RUN} of the published steps run, time scaled)",
        ("work", "s", "times faster"),
    )
    for name, timing in timings.items():
        ratio = timings[first].median / timing.median
        section.rows.append((name, _span(timing), f"{ratio:.1f}"))
    return section


def photo_section(settings: Settings, extent: Extent) -> Section:
    """Photographs of several sizes with the same hole area in 1 to 100 holes, and a folder.

    Processor seconds, of the quickest run, are what other programs on the machine change least.
    """
    section = Section(
        "Photographs, the same hole area in each",
        ("megapixels", "holes", "files", "s", "s a file", "processor s"),
    )
    bench = PhotoBench(settings)
    try:
        cases = [(size, holes, 1) for size in extent.photos for holes in extent.holes]
        cases.append((extent.photos[0], 1, extent.files))
        for size, holes, files in cases:
            jobs = bench.add(size, holes, files)
            bench.seconds(jobs)
            times = [bench.seconds(jobs) for _ in range(max(1, extent.runs // 2))]
            middle = sorted(clock for clock, _ in times)[len(times) // 2]
            worked = min(processor for _, processor in times)
            cells = (f"{seconds:.2f}" for seconds in (middle, middle / files, worked))
            section.rows.append((size, holes, files, *cells))
    finally:
        bench.close()
    return section


def _span(timing: Timing, unit: float = 1.0) -> str:
    """Median with fastest and slowest."""
    low, middle, high = (unit * t for t in (timing.low, timing.median, timing.high))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"
