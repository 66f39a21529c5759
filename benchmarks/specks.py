"""What a hundred specks in a 12-megapixel scan cost, against one hole of their area.

    python benchmarks/specks.py --guide patchmatch --runs 3 [--no-correct]

Processor seconds from the open process on, reading and writing included, least of the runs.
"""

from __future__ import annotations

import argparse
import time

import torch

from d2s_cli.bench.photos import PhotoBench
from d2s_cli.recipe import Settings

MEGAPIXELS = 12
HOLES = (1, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guide", default="patchmatch")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-correct", action="store_true", help="leave out the correction")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(
        guide=args.guide,
        device="cpu",
        if_exists="overwrite",
        correct=False if args.no_correct else None,
    )
    bench = PhotoBench(settings)
    try:
        jobs = [bench.add(MEGAPIXELS, holes) for holes in HOLES]
        for job in jobs:  # what is loaded once is loaded
            bench.seconds(job)
        least = [float("inf")] * len(jobs)
        for _ in range(args.runs):
            for number, job in enumerate(jobs):
                start = time.process_time()
                bench.seconds(job)
                least[number] = min(least[number], time.process_time() - start)
    finally:
        bench.close()
    one, many = least
    print(f"{args.guide}: one hole {one:.1f} s, 100 specks {many:.1f} s: {many / one:.1f} times")


if __name__ == "__main__":
    main()
