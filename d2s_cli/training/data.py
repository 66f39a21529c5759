"""Training examples: crops of photographs with holes, each decided by its own number.

Example k of a run depends on (seed, k) alone: its picture, crop and hole are the same on
any machine, after any interruption, and however many workers draw it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from d2s_cli.errors import InputError
from d2s_cli.images.convert import to_unit_range
from d2s_cli.images.draw_masks import Hole, mat_mask
from d2s_cli.images.pairing import IMAGE_SUFFIXES
from d2s_cli.training.masks import mixed_mask

Picture = NDArray[np.uint8]
DrawBatch = Callable[[int], "Batch"]
log = logging.getLogger(__name__)

#: crops are reduced by a random factor up to this, so that one photo gives many scales
MAX_REDUCTION = 3.0
#: holes outside these shares of the crop are drawn again
HOLE_SHARE = (0.01, 0.9)
#: examples of step k have numbers from k times this on, so that batches may differ in size
EXAMPLES_A_STEP = 100_000


@dataclass(frozen=True)
class Example:
    """A crop, uint8 H x W x 3, and a bool hole."""

    image: Picture
    hole: Hole


@dataclass(frozen=True)
class Batch:
    """Tensors as everywhere: N x 3 x H x W in [-1, 1]; hole N x 1 x H x W.

    `candidate` is a first result to correct, like `image`, where a guide is trained on them.
    """

    image: Tensor
    hole: Tensor
    candidate: Tensor | None = None


def load_photos(folders: Sequence[Path], min_side: int = 64) -> list[Picture]:
    """Decode every picture below the folders into memory, in sorted order.

    Unreadable and tiny files are named in a warning and skipped.

    Raises:
        InputError: no folder has a usable picture.
    """
    paths = sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    )

    def decode(path: Path) -> Picture | None:
        try:
            with Image.open(path) as file:
                picture = np.asarray(file.convert("RGB"))
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            log.warning("skipped %s: %s", path, error)
            return None
        if min(picture.shape[:2]) < min_side:
            log.warning("skipped %s: smaller than %d pixels", path, min_side)
            return None
        return picture

    with ThreadPoolExecutor() as pool:
        photos = [picture for picture in pool.map(decode, paths) if picture is not None]
    if not photos:
        raise InputError(
            f"no pictures to train on below {', '.join(map(str, folders))}",
            f"looked for: {' '.join(sorted(IMAGE_SUFFIXES))}, in subfolders too",
        )
    return photos


def draw_example(
    photos: Sequence[Picture], seed: int, number: int, size: int, recipe: str
) -> Example:
    """Example `number` of the run.

    Args:
        photos: pictures of any size.
        seed: of the run.
        number: counts examples from 0.
        size: side of the crop, pixels.
        recipe: masks: "paper" for MAT's large ones at `size`; "mixed" for windows cut out of 256
            masks of three kinds.
    """
    rng = np.random.default_rng([seed, number])
    photo = photos[int(rng.integers(len(photos)))]
    image = _random_crop(rng, photo, size)
    return Example(image, _random_hole(rng, size, recipe))


def _random_crop(rng: np.random.Generator, photo: Picture, size: int) -> Picture:
    height, width = photo.shape[:2]
    largest = min(min(height, width) / size, MAX_REDUCTION)
    # even in the logarithm between full resolution and the largest reduction; small photos are
    # enlarged just as far as needed
    factor = largest if largest < 1 else float(largest ** rng.random())
    side = round(size * factor)
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = photo[top : top + side, left : left + side]
    if side != size:
        method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        crop = np.asarray(cv2.resize(crop, (size, size), interpolation=method), np.uint8)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop)


def _random_hole(rng: np.random.Generator, size: int, recipe: str) -> Hole:
    if recipe == "paper":
        return mat_mask(rng, size, "large")
    canvas = max(256, size)
    while True:
        hole = mixed_mask(rng, canvas)
        top, left = rng.integers(canvas - size + 1, size=2)
        hole = hole[top : top + size, left : left + size]
        if HOLE_SHARE[0] < hole.mean() < HOLE_SHARE[1]:
            return np.ascontiguousarray(hole)


def make_batch(examples: Sequence[Example]) -> Batch:
    return Batch(
        image=to_unit_range(np.stack([e.image for e in examples])),
        hole=torch.from_numpy(np.stack([e.hole for e in examples]))[:, None].float(),
    )


class BatchStream:
    """Batches from `first_step` on, made ahead in one background thread.

    Args:
        draw: step -> Batch; must depend on the step alone.
        first_step: where to begin (a resumed run begins where it stopped).
        ahead: batches kept ready.
    """

    def __init__(self, draw: DrawBatch, first_step: int, ahead: int = 4) -> None:
        self._draw = draw
        self._step = first_step
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                item: Batch | BaseException = self._draw(self._step)
            except Exception as error:  # handed to the consumer, who raises it
                item = error
            self._step += 1
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
