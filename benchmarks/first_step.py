"""From typing `d2s inpaint` on a 12-megapixel photo to the first step of the refiner.

Run from the repository root:

    python benchmarks/first_step.py

Each run is a process of its own, as a user starts it. Figures are processor seconds since that
process began (least of --runs), so other work on the machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SHAPE = (3000, 4000)
#: marks when each stage has ended, and stops at the first call of the refiner's network
CHILD = """
import json, os, sys, time
marks = {"python": time.process_time()}
def mark(name):
    marks.setdefault(name, time.process_time())
def marked(module, attribute, name):
    function = getattr(module, attribute)
    def call(*arguments, **options):
        result = function(*arguments, **options)
        mark(name)
        return result
    setattr(module, attribute, call)
import torch
mark("torch")
from d2s_cli import engine, opening
from d2s_cli.diffusion.unet import UNet
mark("d2s and the other libraries")
marked(engine, "load_refiner", "weights of the refiner")
marked(opening, "read_photo", "photo")
marked(opening, "read_mask", "mask")
marked(opening, "fill_sights", "guide")
marked(opening.Opener, "settle", "correction")
def stop(*arguments, **options):
    mark("first step of the refiner")
    print(json.dumps(marks), flush=True)
    os._exit(0)
UNet.forward = stop
from d2s_cli.cli.app import main
sys.argv[0] = "d2s"
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--guide", default="telea")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_photo(folder)
        runs = [run(folder, options.guide) for _ in range(options.runs)]
    best = min(runs, key=lambda marks: marks["first step of the refiner"])
    before = 0.0
    print("| stage | s | since the command was typed |\n| --- | --- | --- |")
    for stage, seconds in sorted(best.items(), key=lambda item: item[1]):
        print(f"| {stage} | {seconds - before:.2f} | {seconds:.2f} |")
        before = seconds


def draw_photo(folder: Path) -> None:
    """A photo-like 12-megapixel JPEG (noise at several scales) and a mask with one hole."""
    rng = np.random.default_rng(0)
    height, width = SHAPE
    photo = np.full((height, width, 3), 110.0, np.float32)
    for side in (4, 32, 256):
        noise = rng.normal(0, 24, (height // side + 1, width // side + 1, 3)).astype(np.float32)
        photo += noise.repeat(side, 0).repeat(side, 1)[:height, :width]
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / "photo.jpg", quality=92)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1400:1500, 1800:1900] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def run(folder: Path, guide: str) -> dict[str, float]:
    """Processor seconds at which each stage had ended."""
    words = ["inpaint", "photo.jpg", "-m", "mask.png", "-g", guide, "-d", "cpu", "-o", "out.jpg"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    marks: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return marks


if __name__ == "__main__":
    main()
