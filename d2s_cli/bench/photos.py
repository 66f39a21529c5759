"""Whole photographs through the engine: how cost grows with pixels, holes and files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.engine import Engine
from d2s_cli.errors import D2SError
from d2s_cli.images.pairing import Job
from d2s_cli.recipe import Settings

#: hole pixels of a picture, however many holes they are in
HOLE_PIXELS = 10_000


def make_photo(megapixels: float, seed: int = 0) -> NDArray[np.uint8]:
    """A 4:3 picture with structure at all scales: soft colours, edges, and grain."""
    rng = np.random.default_rng(seed)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    total = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((5, 70.0), (40, 40.0), (300, 20.0)):
        small = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(-12, 13, (height, width, 1), dtype=np.int8)
    return np.clip(total + 128 + grain, 0, 255).astype(np.uint8)


def make_holes(shape: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """`count` equal squares of HOLE_PIXELS in all, spread evenly."""
    hole = np.zeros(shape, bool)
    side = max(1, round((HOLE_PIXELS / count) ** 0.5))
    rows = max(1, round((count * shape[0] / shape[1]) ** 0.5))
    columns = -(-count // rows)
    for k in range(count):
        y = round((k // columns + 0.5) * shape[0] / rows) - side // 2
        x = round((k % columns + 0.5) * shape[1] / columns) - side // 2
        hole[max(0, y) : y + side, max(0, x) : x + side] = True
    return hole


class PhotoBench:
    """Pictures with holes in a temporary folder, and an engine to restore them with.

    Args:
        settings: of the engine; results are always written anew.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = Engine(settings)
        self._folder = tempfile.TemporaryDirectory(prefix="d2s-bench-")
        self.folder = Path(self._folder.name)

    def add(self, megapixels: float, holes: int, files: int = 1) -> list[Job]:
        """Write pictures and masks; returns what to do."""
        jobs = []
        for number in range(files):
            name = f"{megapixels:g}-{holes}-{number}"
            image, mask = self.folder / f"{name}.jpg", self.folder / f"{name}-mask.png"
            photo = make_photo(megapixels, number)
            hole = make_holes((photo.shape[0], photo.shape[1]), holes)
            cv2.imwrite(str(image), photo)
            cv2.imwrite(str(mask), hole.astype(np.uint8) * 255)
            jobs.append(Job(image, mask, self.folder / f"{name}-out.jpg"))
        return jobs

    def seconds(self, jobs: Sequence[Job]) -> tuple[float, float]:
        """Time to restore them, from reading to reading back: by the clock, and that the processor
        worked.

        Raises:
            D2SError: one of them failed.
        """
        began, worked = time.perf_counter(), time.process_time()
        entries = self.engine.run(jobs)
        taken = time.perf_counter() - began, time.process_time() - worked
        for entry in entries:
            if entry["status"] != "done":
                raise D2SError(f"the benchmark's own picture failed: {entry}")
        return taken

    def close(self) -> None:
        self._folder.cleanup()
