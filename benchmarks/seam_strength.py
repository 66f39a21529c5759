"""How the seam score answers to made-up seams of known strength in photographs.

    python benchmarks/seam_strength.py ../shared/data/val --limit 40

Takes one crop of every photograph, draws a box or strokes as its hole, changes the photograph's own
pixels inside it, and scores the result. Prints means over the crops as a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2s_cli.images.picture_sets import find_set
from d2s_cli.images.preview import to_8_bit
from d2s_cli.images.reading import read_photo
from d2s_cli.metrics.seam import seam

SIDE = 256

Picture = NDArray[np.uint8]
Hole = NDArray[np.bool_]
Change = Callable[[Picture, Hole, np.random.Generator], NDArray[np.floating]]


def crops(folder: Path, limit: int) -> list[tuple[Picture, Hole]]:
    """Crops with holes, the same for the same folder."""
    rng, found = np.random.default_rng(0), []
    for path in find_set(folder).paths:
        picture = to_8_bit(read_photo(path).rgb)
        if min(picture.shape[:2]) < SIDE:
            continue
        top, left = (int(rng.integers(side - SIDE + 1)) for side in picture.shape[:2])
        crop = np.ascontiguousarray(picture[top : top + SIDE, left : left + SIDE])
        found.append((crop, hole_of(len(found), rng)))
        if len(found) == limit:
            break
    return found


def hole_of(number: int, rng: np.random.Generator) -> Hole:
    """A box, and strokes, by turns."""
    hole = np.zeros((SIDE, SIDE), np.uint8)
    if number % 2 == 0:
        hole[68:188, 68:188] = 1
    else:
        for _ in range(3):
            points = rng.integers(30, SIDE - 30, (5, 2)).astype(np.int32)
            cv2.polylines(hole, [points], False, 1, int(rng.integers(10, 40)))
    return hole > 0


def offset(levels: float) -> Change:
    return lambda p, hole, rng: p + levels * np.sign(127.5 - p[hole].mean())


def soft_offset(levels: float, width: float) -> Change:
    """An offset that grows over `width` pixels from the edge."""

    def change(p: Picture, hole: Hole, rng: np.random.Generator) -> NDArray[np.floating]:
        depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5)
        grown = np.clip(depth / width, 0, 1)[..., None]
        return p + levels * grown * np.sign(127.5 - p[hole].mean())

    return change


def blur(deviation: float) -> Change:
    return lambda p, hole, rng: cv2.GaussianBlur(p.astype(float), (0, 0), deviation)


def noise(levels: float) -> Change:
    return lambda p, hole, rng: p + rng.normal(0, levels, p.shape)


def shift(pixels: int) -> Change:
    return lambda p, hole, rng: np.roll(p, pixels, axis=1).astype(float)


def telea(p: Picture, hole: Hole, rng: np.random.Generator) -> NDArray[np.floating]:
    return cv2.inpaint(p, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA).astype(float)


def one_colour(p: Picture, hole: Hole, rng: np.random.Generator) -> NDArray[np.floating]:
    return np.broadcast_to(p[~hole].mean(axis=0), p.shape)


CHANGES: dict[str, Change] = {
    "untouched": lambda p, hole, rng: p.astype(float),
    **{f"brighter or darker by {s} levels": offset(s) for s in (1, 2, 3, 5, 10, 20, 40)},
    "by 20 levels, over 4 pixels": soft_offset(20, 4),
    **{f"blurred, deviation {s}": blur(s) for s in (0.5, 1, 2, 4, 8)},
    **{f"noise of {s} levels": noise(s) for s in (2, 5, 10, 20)},
    **{f"moved by {s} pixels": shift(s) for s in (1, 2, 4, 16)},
    "Telea's fill": telea,
    "mean colour of the rest": one_colour,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=40)
    given = parser.parse_args()
    scenes = crops(given.folder, given.limit)
    print(f"{len(scenes)} crops of {SIDE}x{SIDE}\n")
    print("| inside the hole | seam | step | texture | sd of seam |\n|---|---|---|---|---|")
    seconds = 0.0
    for name, change in CHANGES.items():
        rng, rows = np.random.default_rng(1), []
        for picture, hole in scenes:
            result = picture.copy()
            result[hole] = np.clip(np.round(change(picture, hole, rng)[hole]), 0, 255)
            began = time.process_time()
            found = seam(result, hole)
            seconds += time.process_time() - began
            if found is not None:
                rows.append((found.score, found.step, found.texture))
        means, spread = np.mean(rows, axis=0), np.std(rows, axis=0)[0]
        print(f"| {name} | {' | '.join(f'{m:.3f}' for m in means)} | {spread:.3f} |", flush=True)
    each = 1000 * seconds / (len(scenes) * len(CHANGES))
    print(f"\n{each:.0f} ms of processor time a picture")


if __name__ == "__main__":
    main()
