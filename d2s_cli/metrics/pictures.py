"""Scores of single pictures, and what is odd about them: one read of each file serves all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from d2s_cli.errors import InputError
from d2s_cli.images.colour import has_alpha
from d2s_cli.images.masks import Hole, MaskSettings, read_mask
from d2s_cli.images.photo import Photo
from d2s_cli.images.preview import to_8_bit
from d2s_cli.images.reading import read_photo
from d2s_cli.metrics import pixels
from d2s_cli.metrics.features import Extractor
from d2s_cli.metrics.scores import HOLE_SUFFIX, IN_HOLE
from d2s_cli.metrics.seam import seam

SSIM_KINDS = {"ssim": "gaussian", "ssim-flat": "flat", "ssim-padded": "padded"}
#: of the truth, at the same edges: what the seam score of a perfect fill would be
SEAM_FLOOR = "seam floor"
#: formats that do not keep pixels
LOSSY = ("JPEG", "MPO")


@dataclass(frozen=True)
class Item:
    """One picture to judge.

    Attributes:
        name: for tables.
        result, truth: the files; either may be missing.
        mask: of the hole.
        mask_settings: how it is read.
        marked: the mask is a damaged picture that marks its own hole by alpha or a key colour.
    """

    name: str
    result: Path | None = None
    truth: Path | None = None
    mask: Path | None = None
    mask_settings: MaskSettings = field(default_factory=MaskSettings)
    marked: bool = False


@dataclass
class Judged:
    """What one read of an item gave.

    Attributes:
        values: per-picture scores by name; NaN where not defined.
        facts: what warnings are made of, see `_facts`.
        notes: what was decided about the mask, and what is odd about it.
        hole_share: of the picture, None without mask.
        result, truth: prepared for the network of features, where wanted.
        pair: the pictures themselves, where a network compares them.
    """

    values: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hole_share: float | None = None
    result: Tensor | None = None
    truth: Tensor | None = None
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None


def judge(
    item: Item,
    metrics: Sequence[str],
    extractor: Extractor | None,
    truth_features: bool,
    keep_pair: bool,
) -> Judged:
    """Read an item and compute what needs no network.

    Args:
        item: files.
        metrics: names of per-picture scores.
        extractor: prepares pictures for features; None if no metric needs them.
        truth_features: prepare the truth too (it may be known already).
        keep_pair: keep the pictures for a network that compares them.

    Raises:
        InputError: unreadable; of different sizes; too small for a score.
    """
    result = read_photo(item.result) if item.result else None
    truth = read_photo(item.truth) if item.truth else None
    if result and truth and (metrics or keep_pair or item.mask) and result.size != truth.size:
        raise InputError(
            f"result and reference differ in size: {result.path} is"
            f" {result.size[0]}x{result.size[1]}, {truth.path} is {truth.size[0]}x{truth.size[1]}",
            "the reference must be the very pictures that were restored; nothing is stretched,"
            " since another filter changes every score",
        )
    judged = Judged(facts=_facts(result, truth))
    first, second = (None if photo is None else to_8_bit(photo.rgb) for photo in (result, truth))
    hole = None
    photo = result or truth
    if item.mask is not None and photo is not None:
        owner = read_photo(item.mask) if item.marked else photo
        mask = read_mask(item.mask, owner, item.mask_settings)
        hole, judged.notes = mask.hole, mask.notes + (mask.warnings if mask.hole.any() else [])
        judged.hole_share = float(hole.mean())
    if first is not None and second is not None and (metrics or keep_pair or hole is not None):
        judged.values |= _pair_values(first, second, hole, metrics)
        judged.facts |= _agreement(first, second, hole)
    if "seam" in metrics and hole is not None:
        judged.values |= _seam_values(first, second, hole)
    if keep_pair and first is not None and second is not None:
        judged.pair = first, second
    if extractor is not None:
        judged.result = None if first is None else extractor.prepare(first)
        judged.truth = extractor.prepare(second) if truth_features and second is not None else None
    return judged


def _pair_values(
    a: NDArray[np.uint8], b: NDArray[np.uint8], hole: Hole | None, metrics: Sequence[str]
) -> dict[str, float]:
    values: dict[str, float] = {}
    places: list[tuple[str, Hole | None]] = [("", None)]
    if hole is not None:
        places.append((HOLE_SUFFIX, hole))
    for suffix, where in places:
        empty = where is not None and not where.any()
        for name in metrics:
            if suffix and name not in IN_HOLE:
                continue
            if name == "psnr":
                values[name + suffix] = np.nan if empty else pixels.psnr(a, b, where)
            elif name == "l1":
                values[name + suffix] = np.nan if empty else pixels.l1(a, b, where)
            elif name in SSIM_KINDS:
                values[name + suffix] = pixels.ssim(a, b, where, SSIM_KINDS[name])
    return values


def _seam_values(
    result: NDArray[np.uint8] | None, truth: NDArray[np.uint8] | None, hole: Hole
) -> dict[str, float]:
    values: dict[str, float] = {}
    found = seam(result, hole) if result is not None else None
    parts = (found.score, found.step, found.texture) if found else (np.nan,) * 3
    values |= dict(zip(("seam", "seam step", "seam texture"), parts, strict=True))
    if truth is not None:
        floor = seam(truth, hole)
        values[SEAM_FLOOR] = floor.score if floor else np.nan
    return values


def _facts(result: Photo | None, truth: Photo | None) -> dict[str, Any]:
    """Formats, size and whether there is an alpha channel."""
    facts: dict[str, Any] = {}
    if result is not None:
        facts = {"format": result.format, "size": result.size, "alpha": has_alpha(result.kind)}
    if truth is not None:
        facts["truth_format"] = truth.format
    return facts


def _agreement(
    a: NDArray[np.uint8], b: NDArray[np.uint8], hole: Hole | None
) -> dict[str, float | None]:
    """Share of pixels that are the same, and of known pixels that are not."""
    same = (a == b).all(axis=2)
    known = None if hole is None or hole.all() else float(1 - same[~hole].mean())
    return {"same": float(same.mean()), "known_changed": known}
