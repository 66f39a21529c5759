"""A guide's result for one window of a photograph of any bit depth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.guides.contract import Guide, PictureGuide
from d2s_cli.images.convert import from_unit_range, to_unit_range

#: a whole-picture guide gets at most this many pixels round a window (patch search is slow), and
#: at most this many times the window's height and width: a speck needs no search of a whole scan
VIEW_PIXELS = 1_000_000
VIEW_FACTOR = 3
#: pixels of windows that are corrected together
CORRECT_PIXELS = 4 * 256 * 256

Slices = tuple[slice, slice]
#: picture H x W x 3, uint8 or uint16; hole H x W; a first result like the picture
View = tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]


@dataclass(frozen=True)
class Sight:
    """What a guide is shown to fill a window.

    Attributes:
        picture: H x W x 3, uint8 or uint16.
        hole: H x W.
        seed: for the guide.
        window: rows and columns of it that are wanted.
        candidate: like `picture`, for guides that correct a first result.
    """

    picture: NDArray[Any]
    hole: NDArray[np.bool_]
    seed: int
    window: Slices
    candidate: NDArray[Any] | None = None


def fill_window(
    guide: Guide, photo: NDArray[Any], hole: NDArray[np.bool_], window: Slices, seed: int
) -> NDArray[Any]:
    """Let a guide fill one window, seeing as much of the photo as it prefers.

    Args:
        guide: any guide.
        photo: H x W x 3, uint8 or uint16.
        hole: H x W; all holes of the photo, so that none is copied from.
        window: rows and columns to fill.
        seed: handed to the guide.

    Returns:
        The window, filled, of the photo's type.
    """
    return fill_sights(guide, [see_window(guide, photo, hole, window, seed)])[0]


def see_window(
    guide: Guide, photo: NDArray[Any], hole: NDArray[np.bool_], window: Slices, seed: int
) -> Sight:
    """What `fill_window` shows the guide; arguments as there. Runs the guide that it corrects."""
    view, candidate = window, None
    shape = (photo.shape[0], photo.shape[1])
    if guide.first is not None:
        candidate = fill_window(guide.first, photo, hole, window, seed)
    elif guide.prefers_whole_picture:
        view = _wider(window, shape)
    elif guide.side:
        # real surroundings in place of mirrored ones, at no cost
        view = _at_least(window, shape, guide.side)
    rows, columns = (
        slice(w.start - v.start, w.stop - v.start) for w, v in zip(window, view, strict=True)
    )
    return Sight(photo[view], hole[view], seed, (rows, columns), candidate)


def correct_windows(corrector: Guide, views: Sequence[View]) -> list[NDArray[Any]]:
    """First results for windows, corrected; windows of one size go through the network together.

    Args:
        corrector: a guide that takes a candidate.
        views: a window of the photo, the holes in it and its first result, for each window.
    """
    whole = (slice(None), slice(None))
    numbers_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, (picture, _, _) in enumerate(views):
        numbers_of[picture.shape].append(number)
    results: dict[int, NDArray[Any]] = {}
    for (height, width, _), numbers in numbers_of.items():
        count = max(1, CORRECT_PIXELS // (height * width))
        for start in range(0, len(numbers), count):
            part = numbers[start : start + count]
            sights = [Sight(*views[number][:2], 0, whole, views[number][2]) for number in part]
            results |= zip(part, fill_sights(corrector, sights), strict=True)
    return [results[number] for number in range(len(views))]


def fill_sights(guide: Guide, sights: Sequence[Sight]) -> list[NDArray[Any]]:
    """Let a guide fill windows together.

    Args:
        guide: any guide; one alone is given to those that do not batch.
        sights: of one size and type, with a candidate all or none.

    Returns:
        The windows, filled, of their photos' type.
    """
    if isinstance(guide, PictureGuide):
        filled = [_fill_picture(guide, s.picture, s.hole, s.seed) for s in sights]
    else:
        holes = torch.from_numpy(np.stack([s.hole for s in sights]))[:, None].float()
        candidates = [s.candidate for s in sights if s.candidate is not None]
        pictures = to_unit_range(np.stack([s.picture for s in sights]))
        first = to_unit_range(np.stack(candidates)) if candidates else None
        seed = sights[0].seed if len(sights) == 1 else [s.seed for s in sights]
        out = guide(pictures, holes, seed=seed, candidate=first)
        filled = list(from_unit_range(out, sights[0].picture.dtype))
    return [picture[s.window] for picture, s in zip(filled, sights, strict=True)]


def _fill_picture(
    guide: PictureGuide, picture: NDArray[Any], hole: NDArray[np.bool_], seed: int
) -> NDArray[Any]:
    if picture.dtype == np.uint8:
        return guide.fill_picture(picture, hole, seed)
    # 8-bit guides serve 16-bit photos too; refining brings the depth back
    small = cv2.convertScaleAbs(picture, alpha=1 / 257)
    deep = guide.fill_picture(small, hole, seed).astype(picture.dtype) * 257
    return np.where(hole[..., None], deep, picture)


def _wider(window: Slices, shape: tuple[int, int]) -> Slices:
    """The window grown evenly within VIEW_FACTOR and VIEW_PIXELS, inside the picture."""
    sides = [w.stop - w.start for w in window]
    area = sides[0] * sides[1]
    by_pixels = max(0, int((VIEW_PIXELS**0.5 - area**0.5) / 2))
    grow = [min(by_pixels, (VIEW_FACTOR - 1) * side // 2) for side in sides]
    rows, columns = (
        slice(max(0, w.start - more), min(length, w.stop + more))
        for w, more, length in zip(window, grow, shape, strict=True)
    )
    return rows, columns


def _at_least(window: Slices, shape: tuple[int, int], side: int) -> Slices:
    """The window grown evenly to `side` x `side`, as far as the picture reaches."""
    grown = []
    for part, length in zip(window, shape, strict=True):
        size = min(max(part.stop - part.start, side), length)
        start = min(max((part.start + part.stop - size) // 2, 0), length - size)
        grown.append(slice(start, start + size))
    return grown[0], grown[1]


def hole_seed(seed: int, number: int) -> int:
    """The guide's seed for hole `number` of a picture: 31 bits, its own for each hole. The first
    hole has the run's seed itself, as a call of the guide from Python would."""
    if number == 0:
        return seed
    words = np.random.SeedSequence([seed % 2**64, number]).generate_state(1)
    return int(words[0] >> 1)
