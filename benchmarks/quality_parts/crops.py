"""Crops to measure on, and the holes that are cut into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2s_cli.images.draw_masks import draw_hole, mat_mask, scratch_mask

SIDE = 256
#: a set without one crop still needs a spread
FEWEST = 3

Pictures = NDArray[np.uint8]
Holes = NDArray[np.bool_]
Item = TypeVar("Item")


def crop_paths(folder: Path, limit: int | None = None) -> list[Path]:
    """Pictures of the folder in the order of its list.txt, or by name."""
    listing = folder / "list.txt"
    if listing.is_file():
        paths = [folder / line.strip() for line in listing.read_text().splitlines() if line.strip()]
    else:
        paths = sorted(folder.glob("*.png"))
    return paths[:limit]


def read_crops(paths: Sequence[Path]) -> Pictures:
    """uint8 N x 256 x 256 x 3; ends the program at a picture of another size."""
    crops = []
    for path in paths:
        with Image.open(path) as picture:
            crops.append(np.asarray(picture.convert("RGB")))
        if crops[-1].shape != (SIDE, SIDE, 3):
            raise SystemExit(f"{path} is {crops[-1].shape[:2]}, not {SIDE} x {SIDE}")
    return np.stack(crops)


# --- holes by name --------------------------------------------------------------------------------


def box_mask(rng: np.random.Generator, size: int) -> Holes:
    """1 to 3 rectangles of 24 to 96 pixels a side, wholly inside."""
    hole = np.zeros((size, size), bool)
    for _ in range(rng.integers(1, 4)):
        height, width = rng.integers(24, 97, size=2)
        top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
        hole[top : top + height, left : left + width] = True
    return hole


MASKS: dict[str, Callable[[np.random.Generator], Holes]] = {
    "mat-small": lambda rng: mat_mask(rng, SIDE, "small"),
    "mat-large": lambda rng: mat_mask(rng, SIDE, "large"),
    "scratch": lambda rng: scratch_mask(rng, SIDE),
    "box": lambda rng: box_mask(rng, SIDE),
}


# --- sets of crops with holes ---------------------------------------------------------------------


@dataclass(frozen=True)
class HoleKind:
    """Holes of one set of crops.

    Attributes:
        kind: of draw_masks.KINDS.
        cover: least and largest share of the picture; others are drawn again. None takes all.
        third: which of every three crops get such holes, so that sizes are measured on different
            crops, and all sizes together on all crops.
    """

    kind: str
    cover: tuple[float, float] | None
    third: int


#: by how much they cover, and as MAT's generator draws them
HOLE_KINDS = {
    "5-15 %": HoleKind("mat-large", (0.05, 0.15), 0),
    "15-30 %": HoleKind("mat-large", (0.15, 0.30), 1),
    "30-50 %": HoleKind("mat-large", (0.30, 0.50), 2),
    "mat-small": HoleKind("mat-small", None, 0),
    "mat-large": HoleKind("mat-large", None, 1),
}
#: these have different crops and are also measured together
SIZES = ("5-15 %", "15-30 %", "30-50 %")
ALL_SIZES = "5-50 %"


@dataclass(frozen=True)
class CropSet:
    """Crops with holes.

    Attributes:
        name: for files and tables.
        paths: of the crops.
        truths: uint8 N x 256 x 256 x 3.
        holes: bool N x 256 x 256.
    """

    name: str
    paths: tuple[Path, ...]
    truths: Pictures
    holes: Holes

    @property
    def file_name(self) -> str:
        return self.name.replace(" %", "")


def draw(kind: HoleKind, number: int, seed: int) -> Holes:
    """The hole of one crop; depends on the kind, the crop's number and the seed alone."""
    cover = [] if kind.cover is None else [round(100 * share) for share in kind.cover]
    rng = np.random.default_rng([seed, number, *cover])
    return draw_hole(kind.kind, SIDE, SIDE, rng, kind.cover)


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """`count` items evenly spread over all of them; None takes all."""
    if count is None or count >= len(items):
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def crop_set(folder: Path, name: str, limit: int | None, seed: int) -> CropSet:
    """The crops of one row of the tables: every third picture of the folder, or `limit` of those.

    Args:
        folder: of 256 x 256 pictures.
        name: a key of HOLE_KINDS.
        limit: how many crops; None takes all.
        seed: of the holes.
    """
    kind = HOLE_KINDS[name]
    numbered = list(enumerate(crop_paths(folder)))
    chosen = spread(numbered[kind.third :: 3], limit)
    return _set_of(name, kind, chosen, seed)


def mixed_set(folder: Path, name: str, holes: str, limit: int | None, seed: int) -> CropSet:
    """Like `crop_set`, of `limit` crops of the whole folder, with holes of HOLE_KINDS[holes]."""
    chosen = spread(list(enumerate(crop_paths(folder))), limit)
    return _set_of(name, HOLE_KINDS[holes], chosen, seed)


def _set_of(name: str, kind: HoleKind, chosen: list[tuple[int, Path]], seed: int) -> CropSet:
    if len(chosen) < FEWEST:
        raise SystemExit(f"{len(chosen)} pictures for {name}: {FEWEST} or more are needed")
    paths = tuple(path for _, path in chosen)
    holes: NDArray[Any] = np.stack([draw(kind, number, seed) for number, _ in chosen])
    return CropSet(name, paths, read_crops(paths), holes)


def joined(sets: Sequence[CropSet], name: str) -> CropSet:
    """Several sets as one."""
    return CropSet(
        name,
        tuple(path for one in sets for path in one.paths),
        np.concatenate([one.truths for one in sets]),
        np.concatenate([one.holes for one in sets]),
    )
