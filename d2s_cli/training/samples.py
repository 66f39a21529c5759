"""Pictures written while training runs: what the refiner does with fixed examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.guides.opencv import opencv_fill
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.training.data import Picture, draw_example

COUNT = 6
SIZE = 192
#: far from the numbers of training examples, and the same in every run
FIRST_NUMBER = 10**12
TK, STEPS = 100, 8


def write_samples(
    refiner: Refiner,
    photos: Sequence[Picture],
    output: Path,
    images: int,
    data: str = "crops",
) -> Path:
    """Write samples/IMAGES.png: a row each of truth, holes, telea's fill and its refinement."""
    numbers = range(FIRST_NUMBER, FIRST_NUMBER + COUNT)
    examples = [draw_example(photos, 0, number, SIZE, "mixed", data) for number in numbers]
    image = to_unit_range(np.stack([e.image for e in examples]))
    hole = torch.from_numpy(np.stack([e.hole for e in examples]))[:, None].float()
    fills = np.stack([opencv_fill(e.image, e.hole, "telea") for e in examples])
    guide = to_unit_range(fills)
    refined = refiner.refine(
        image, hole, guide, tk=TK, steps=STEPS, sampler="dpmpp-sde", inject=False
    )
    rows = [image, image * (1 - hole), guide, refined.cpu()]
    sheet = np.concatenate([np.concatenate(list(from_unit_range(row)), axis=1) for row in rows])
    folder = output / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{images:09d}.png"
    Image.fromarray(sheet).save(path)
    return path
