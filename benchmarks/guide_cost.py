"""What a guide costs: seconds for one window, memory, parameters.

    python benchmarks/guide_cost.py lama best.ckpt --threads 2

Prints one row: the clock's time, and the time that the processor worked, which other programs on
the machine do not change much. The numbers in the weights do not matter for it.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch
from torch import nn

import d2s_cli as d2s
from d2s_cli.guides.check import scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("guide")
    parser.add_argument("weights", nargs="+", type=Path)
    parser.add_argument("--side", type=int, default=256, help="height and width of the window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="the fastest one counts")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    guide = d2s.load_guide(given.guide, weights=given.weights)
    networks = [n for n in vars(guide).values() if isinstance(n, nn.Module)]
    parameters = sum(p.numel() for n in networks for p in n.parameters())
    image, hole = scene(given.side, given.side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walls, works = [], []
    for _ in range(given.repeat):
        start, worked = time.perf_counter(), time.process_time()
        guide(image, hole)
        walls.append(time.perf_counter() - start)
        works.append(time.process_time() - worked)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"| {given.guide} | {parameters / 1e6:.2f} M | {min(walls):.2f} s"
        f" ({min(works):.2f} s of processor time) | {peak / 1024:.0f} MB"
        f" ({before / 1024:.0f} MB loaded) |"
    )


if __name__ == "__main__":
    main()
