"""Does memory stay level over a long run?

Run from the repository root:

    python benchmarks/level_memory.py --pictures 500

Restores pictures of several sizes, formats and depths in one run, with several windows each, and
prints the memory that the process holds (resident set size, after a garbage collection) on the way.
The refiner is tiny, so that 500 pictures take minutes; every window goes through it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kill_resume import make_weights

from d2s_cli.engine import Event, inpaint

#: endings of the pictures in turn; .16.png holds 16 bits
ENDINGS = (".png", ".jpg", ".tif", ".webp", ".16.png")
#: width and height lie between
SIDES = (300, 900)


def make_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        width, height = (int(side) for side in rng.integers(*SIDES, 2))
        ending = ENDINGS[number % len(ENDINGS)]
        small = rng.integers(0, 65536, (9, 9, 3)).astype(np.float32)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        deep = picture.clip(0, 65535).astype(np.uint16)
        path = folder / f"p{number:04d}{ending}"
        if ending == ".16.png":
            cv2.imwrite(str(path), deep)
        else:
            Image.fromarray((deep >> 8).astype(np.uint8)).save(path)
        hole = np.zeros((height, width), np.uint8)
        for _ in range(rng.integers(1, 5)):
            x, y = rng.integers(0, width - 60), rng.integers(0, height - 60)
            hole[y : y + rng.integers(5, 60), x : x + rng.integers(5, 60)] = 255
        Image.fromarray(hole).save(folder / f"{path.stem}_mask.png")


def resident() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--guide", default="telea")
    parser.add_argument(
        "--trim", action="store_true", help="first give back what is free (glibc), then measure"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="d2s-memory-") as name:
        pictures = Path(name) / "pictures"
        make_pictures(pictures, asked.pictures)
        print("| results | memory, MB | s |\n| --- | --- | --- |", flush=True)

        def report(event: Event) -> None:
            if event.done and event.done % asked.every == 0:
                gc.collect()
                if asked.trim:
                    ctypes.CDLL("libc.so.6").malloc_trim(0)
                print(f"| {event.done} | {resident():.0f} | {time.monotonic() - began:.0f} |")
                sys.stdout.flush()

        entries = inpaint(
            pictures,
            guide=asked.guide,
            weights=str(make_weights(Path(name) / "tiny.safetensors")),
            tk=60,
            if_exists="resume",
            report=report,
            device="cpu",
        )
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"largest ever: {largest:.0f} MB; {sum(e['status'] == 'done' for e in entries)} done")


if __name__ == "__main__":
    main()
