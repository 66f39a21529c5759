"""Masks for pictures: from alpha, a key colour, the difference of two pictures, or at random."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.draw_masks import draw_hole
from d2s_cli.images.drawings import check_lossless
from d2s_cli.images.edit_masks import write_mask
from d2s_cli.images.finding import GUIDE_PATTERNS, find_result, find_sources
from d2s_cli.images.masks import (
    KEY_TOLERANCE,
    Hole,
    MaskSettings,
    color_hole,
    grow_hole,
    hole_in_picture,
    key_color,
)
from d2s_cli.images.pairing import output_path, refuse_existing
from d2s_cli.images.photo import Photo
from d2s_cli.images.reading import read_photo
from d2s_cli.images.selection import Selection

FROM = ("alpha", "diff", "random")


@dataclass(frozen=True)
class MakeSettings:
    """How masks are made.

    Attributes:
        source: one of FROM, or color=#RRGGBB.
        other: for diff: the other picture, or a folder of them.
        tolerance: for diff and colour: 8-bit levels by which a channel may differ.
        kind: for random: see draw_masks.KINDS.
        cover: for random: least and largest share of the picture; None takes what the kind draws.
        per_image: for random: masks for each picture.
        seed: for random; a mask depends on it, the picture's name and its number alone.
        grow: pixels to grow the hole by, last.
    """

    source: str
    other: Path | None = None
    tolerance: int = KEY_TOLERANCE
    kind: str = "irregular-medium"
    cover: tuple[float, float] | None = None
    per_image: int = 1
    seed: int = 0
    grow: int = 0

    def __post_init__(self) -> None:
        if self.source not in FROM and key_color(self.source) is None:
            raise UsageError(
                f"unknown --from {self.source!r}", f"one of: {', '.join(FROM)}, color=#RRGGBB"
            )
        if (self.source == "diff") != (self.other is not None):
            raise UsageError(
                "--from diff and --with go together", "try: --from diff --with OTHER_PICTURE"
            )
        if self.per_image > 1 and self.source != "random":
            raise UsageError("--per-image is for --from random")


@dataclass(frozen=True)
class Planned:
    """One mask to make: for which picture, where to, which of the picture's masks it is."""

    image: Path
    target: Path
    number: int = 0
    other: Path | None = None


def plan_masks(
    inputs: Sequence[Path],
    settings: MakeSettings,
    output: Path | None = None,
    recursive: bool = False,
    force: bool = False,
    selection: Selection | None = None,
) -> list[Planned]:
    """Name everything before anything is made; `selection` says for which of the pictures found.

    Raises:
        InputError: no pictures; the other picture is missing; a mask exists already, or two would
            have one name.
    """
    images = (selection or Selection()).of(find_sources(inputs, recursive, [output]))
    single = len(images) == 1 and images[0][1] is None and settings.per_image == 1
    plan = []
    for image, below in images:
        other = None
        if settings.other is not None:
            names = [p.format(image.stem) for p in (*GUIDE_PATTERNS, "{}_d2s")]
            other = find_result(settings.other, image, names, below, "other picture")
        for number in range(settings.per_image):
            ending = f"_mask{number:03d}" if settings.per_image > 1 else "_mask"
            target = _target(image, below, output, single, image.stem + ending)
            check_lossless(target)
            plan.append(Planned(image, target, number, other))
    targets = [one.target for one in plan]
    if len(set(targets)) < len(targets):
        raise InputError("two masks would have one name", "try: one folder at a time")
    refuse_existing(targets, force, [p for one in plan for p in (one.image, one.other) if p])
    return plan


def _target(image: Path, below: Path | None, output: Path | None, single: bool, stem: str) -> Path:
    if output is None:
        return image.with_name(f"{stem}.png")
    target = output_path(image, below, output, single, stem)
    return target if target == output else target.with_suffix(".png")


def make_mask(planned: Planned, settings: MakeSettings) -> Hole:
    """The hole, upright H x W.

    Raises:
        InputError: the picture cannot be read, or marks no hole.
        UsageError: a random kind does not reach the wanted cover.
    """
    photo = read_photo(planned.image)
    if settings.source == "random":
        name = zlib.crc32(planned.image.stem.encode())
        rng = np.random.default_rng([settings.seed, name, planned.number])
        hole = draw_hole(settings.kind, *photo.size, rng, settings.cover)
    elif planned.other is not None:
        hole = difference_hole(photo, read_photo(planned.other), settings.tolerance)
    elif (color := key_color(settings.source)) is not None:
        hole = color_hole(photo.rgb, color, settings.tolerance)
    else:
        hole = hole_in_picture(photo, MaskSettings(source="alpha"))
    if not hole.any():
        raise InputError(
            f"nothing in {planned.image} is hole by --from {settings.source}",
            "" if settings.source == "alpha" else "try: another --threshold",
        )
    return grow_hole(hole, settings.grow)


def difference_hole(photo: Photo, other: Photo, tolerance: int) -> Hole:
    """Pixels in which two pictures of one size differ by more than `tolerance` 8-bit levels.

    Raises:
        InputError: sizes or bit depths differ.
    """
    if photo.rgb.shape != other.rgb.shape or photo.rgb.dtype != other.rgb.dtype:
        sizes = [f"{p.size[0]}x{p.size[1]} {p.rgb.dtype}" for p in (photo, other)]
        raise InputError(
            f"pictures differ in size or depth: {photo.path} is {sizes[0]},"
            f" {other.path} is {sizes[1]}"
        )
    scale = np.iinfo(photo.rgb.dtype).max // 255
    away = np.abs(photo.rgb.astype(np.int32) - other.rgb.astype(np.int32)).max(axis=2)
    return np.asarray(away > tolerance * scale)


def write_planned(planned: Planned, settings: MakeSettings) -> float:
    """Make one mask and write it; returns its hole share."""
    hole = make_mask(planned, settings)
    write_mask(hole, planned.target)
    return float(hole.mean())
