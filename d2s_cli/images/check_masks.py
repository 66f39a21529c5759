"""What would go wrong with pictures and their masks, found without loading a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import InputError
from d2s_cli.images.files import typed
from d2s_cli.images.finding import find_masks, find_sources, no_mask
from d2s_cli.images.masks import (
    Hole,
    MaskSettings,
    fit_grey,
    looks_inverted,
    read_grey,
    read_mask,
)
from d2s_cli.images.photo import Photo
from d2s_cli.images.reading import read_photo
from d2s_cli.images.selection import Selection

#: pixels beside the hole's edge that may be grey in a clean mask: the edge is smoothed
EDGE = 3
#: share of grey pixels away from edges from which a mask is said to be noisy
NOISY_SHARE = 0.0005
#: noise of compression stays this near to black or white, 0 to 1
NEAR_END = 0.2


@dataclass(frozen=True)
class Finding:
    """One thing about a pair.

    Attributes:
        level: "problem" (the run would fail or do what nobody wants), "warning" or "note".
        code: a name for programs.
        text: for people.
        hint: what to type next.
    """

    level: str
    code: str
    text: str
    hint: str = ""


@dataclass
class PairReport:
    """A picture and its mask. Sizes are upright; the share and parts are None if unreadable."""

    image: Path
    mask: Path | None
    width: int | None = None
    height: int | None = None
    hole_share: float | None = None
    parts: int | None = None
    findings: list[Finding] = field(default_factory=list)

    def has(self, *levels: str) -> bool:
        return any(finding.level in levels for finding in self.findings)


def check_masks(
    inputs: Sequence[Path],
    mask: Path | None = None,
    recursive: bool = False,
    settings: MaskSettings | None = None,
    largest: float = 0.6,
    selection: Selection | None = None,
) -> list[PairReport]:
    """Pair pictures with masks as a run would, and look at each pair.

    Args:
        inputs: pictures and folders.
        mask: mask file or folder, or None.
        recursive: go into subfolders.
        settings: how masks are read.
        largest: hole share from which a warning is given.
        selection: which of the pictures found are looked at; None for all.

    Raises:
        InputError: there are no pictures at all.
    """
    settings, selection = settings or MaskSettings(), selection or Selection()
    reports = []
    for image, below in selection.of(find_sources(inputs, recursive, [mask], settings.names)):
        masks = find_masks(image, mask, below, settings.source, settings.names)
        if not masks:
            error = no_mask(image, mask, settings.names)
            finding = Finding("problem", "no-mask", error.message, error.hint)
            reports.append(PairReport(image, None, findings=[finding]))
        reports += [check_pair(image, one, settings, largest) for one in masks]
    return reports


def check_pair(image: Path, mask: Path, settings: MaskSettings, largest: float) -> PairReport:
    """Look at one picture and its mask; `largest` as in `check_masks`."""
    report = PairReport(image, mask)
    try:
        photo = read_photo(image)
        report.width, report.height = photo.size
        read = read_mask(mask, photo, settings)
    except InputError as error:
        code = "size" if "differ in size" in error.message else "unreadable"
        report.findings.append(Finding("problem", code, error.message, error.hint))
        return report
    hole = read.hole
    report.hole_share = round(float(hole.mean()), 6)
    report.parts = count_parts(hole)
    report.findings += [Finding("note", "decided", note) for note in read.notes]
    report.findings += _about_hole(hole, settings, largest)
    if mask != image:
        report.findings += _about_file(mask, photo, settings)
    return report


def count_parts(hole: Hole) -> int:
    """Number of parts that do not touch, diagonals counted as touching."""
    return int(cv2.connectedComponents(hole.astype(np.uint8), connectivity=8)[0]) - 1


def _about_hole(hole: Hole, settings: MaskSettings, largest: float) -> list[Finding]:
    share = float(hole.mean())
    other = "white" if settings.polarity == "black" else "black"
    if share == 0:
        return [Finding("problem", "empty", "marks no hole: there is nothing to restore")]
    if share == 1:
        text = "marks the whole picture: nothing is left to go by"
        return [Finding("problem", "full", text, f"try: --polarity {other}")]
    if looks_inverted(hole):
        text = f"covers {share:.1%} of the picture and most of its border: is it inverted?"
        return [Finding("problem", "inverted", text, f"try: --polarity {other}, or auto")]
    if share > largest:
        return [Finding("warning", "large", f"covers {share:.1%}, more than {largest:.0%}")]
    return []


def _about_file(mask: Path, photo: Photo, settings: MaskSettings) -> list[Finding]:
    stored = read_grey(mask)
    findings = []
    if photo.orientation != 1 and stored.shape == photo.size:
        text = (
            f"fits the picture as it is stored, not as it is shown (EXIF orientation"
            f" {photo.orientation}); it is turned with it"
        )
        findings.append(Finding("note", "orientation", text))
    elif photo.orientation != 1 and stored.shape[0] == stored.shape[1]:
        text = f"is taken as drawn on the picture as shown (EXIF orientation {photo.orientation})"
        findings.append(Finding("note", "orientation", text))
    grey = fit_grey(stored, photo, mask, settings)
    stray, near_ends = stray_grey(grey, settings.threshold)
    if stray > NOISY_SHARE:
        what = "noise of compression" if near_ends else "grey areas"
        text = (
            f"{stray:.2%} of it is grey away from the hole's edge ({what}); at threshold"
            f" {settings.threshold:g} the hole is {(grey >= settings.threshold).mean():.1%},"
            f" with every pixel above black {(grey > 0).mean():.1%}"
        )
        hint = f"try: d2s mask edit {typed(mask)} --threshold {settings.threshold:g} -o OUT.png"
        findings.append(Finding("warning", "noise" if near_ends else "grey", text, hint))
    return findings


def stray_grey(grey: NDArray[np.float32], threshold: float) -> tuple[float, bool]:
    """Grey that is no smoothed edge.

    Args:
        grey: H x W, 0 to 1.
        threshold: from which a pixel is white.

    Returns:
        Share of pixels that are neither black nor white and more than EDGE pixels from the edge,
        and whether most of them are nearly black or nearly white.
    """
    white = (grey >= threshold).astype(np.uint8)
    window = np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)
    inside = cv2.erode(white, window) == cv2.dilate(white, window)
    stray = grey[inside & (grey > 0) & (grey < 1)]
    near = (stray < NEAR_END) | (stray > 1 - NEAR_END)
    return stray.size / grey.size, bool(near.mean() > 0.5) if stray.size else True
