"""Changes of masks, and masks as files: black and white, never replaced unasked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.drawings import check_lossless, write_drawing
from d2s_cli.images.masks import Hole, grow_hole, read_grey
from d2s_cli.images.pairing import refuse_existing
from d2s_cli.images.reading import read_photo

#: one change: its name, a key of CHANGES or "join", and its value
Change = tuple[str, Any]


def fill_islands(hole: Hole) -> Hole:
    """Known parts that the hole encloses become hole."""
    known = np.pad(~hole, 1, constant_values=True).astype(np.uint8)
    labels = cv2.connectedComponents(known, connectivity=4)[1]
    return np.asarray(hole | (labels != labels[0, 0])[1:-1, 1:-1])


def drop_specks(hole: Hole, smallest: int) -> Hole:
    """Parts of fewer than `smallest` pixels are no hole any more; diagonals connect."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        hole.astype(np.uint8), connectivity=8
    )
    keep = stats[:count, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False  # what is not hole has label 0
    return np.asarray(keep[labels])


def like(hole: Hole, image: Path) -> Hole:
    """Resized to a picture's size, upright. Soft edges are cut at one half."""
    width, height = read_photo(image).size
    smooth = cv2.resize(
        hole.astype(np.float32), (width, height), interpolation=_resampling(hole, width)
    )
    return np.asarray(smooth >= 0.5)


def _resampling(hole: Hole, width: int) -> int:
    return cv2.INTER_AREA if width < hole.shape[1] else cv2.INTER_LINEAR


#: what changes one mask, by name; each takes the hole and the option's value
CHANGES: dict[str, Callable[[Hole, Any], Hole]] = {
    "invert": lambda hole, _: ~hole,
    "grow": grow_hole,
    "fill_holes": lambda hole, _: fill_islands(hole),
    "drop_specks": drop_specks,
    "like": like,
}
#: how masks become one
JOINS: dict[str, Callable[[Hole, Hole], Hole]] = {
    "union": lambda a, b: a | b,
    "intersect": lambda a, b: a & b,
    "subtract": lambda a, b: a & ~b,
}


def join(holes: Sequence[Hole], mode: str, paths: Sequence[Path]) -> Hole:
    """All masks as one; "subtract" takes the others from the first.

    Raises:
        UsageError: unknown mode.
        InputError: sizes differ.
    """
    if mode not in JOINS:
        raise UsageError(f"unknown --join {mode!r}", f"one of: {', '.join(JOINS)}")
    for hole, path in zip(holes, paths, strict=True):
        if hole.shape != holes[0].shape:
            sizes = [f"{h.shape[1]}x{h.shape[0]}" for h in (holes[0], hole)]
            raise InputError(
                f"masks differ in size: {paths[0]} is {sizes[0]}, {path} is {sizes[1]}",
                "try: --like IMAGE before --join",
            )
    return reduce(JOINS[mode], holes)


def edit_masks(
    masks: Sequence[Path],
    changes: Sequence[Change],
    output: Path,
    threshold: float = 0.5,
    force: bool = False,
) -> list[Path]:
    """Read masks, change them in the given order, write them.

    Args:
        masks: mask files.
        changes: in order; before a "join" each changes every mask, after it the joined one.
        output: file for one result, else folder; results keep their masks' names, as PNG.
        threshold: grey level from which a pixel is hole.
        force: replace existing files.

    Returns:
        The files written.

    Raises:
        InputError: a mask cannot be read, sizes differ at a join, or a result exists already.
        UsageError: unknown mode of joining; several masks into one file without joining them.
    """
    joined = any(name == "join" for name, _ in changes)
    targets = _targets(masks[:1] if joined else masks, output)
    refuse_existing(targets, force)
    holes = [read_grey(path) >= threshold for path in masks]
    for name, value in changes:
        if name == "join":
            holes = [join(holes, value, masks)]
        else:
            holes = [CHANGES[name](hole, value) for hole in holes]
    for hole, target in zip(holes, targets, strict=True):
        write_mask(hole, target)
    return targets


def _targets(masks: Sequence[Path], output: Path) -> list[Path]:
    if output.suffix and not output.is_dir():
        if len(masks) > 1:
            raise UsageError(
                f"{len(masks)} masks do not fit into one file {output}",
                "try: --output FOLDER, or --join union",
            )
        check_lossless(output)
        return [output]
    targets = [output / f"{mask.stem}.png" for mask in masks]
    if len(set(targets)) < len(targets):
        raise InputError("two masks have one name", "try: one folder at a time")
    return targets


def write_mask(hole: Hole, path: Path) -> None:
    """Write a hole as white on black, 8-bit grey; InputError for a format with loss."""
    check_lossless(path)
    write_drawing(hole.astype(np.uint8) * 255, path)
