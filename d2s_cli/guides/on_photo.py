"""A guide's result for one window of a photograph of any bit depth."""

from __future__ import annotations

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

Slices = tuple[slice, slice]


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
    if guide.first is not None:
        candidate = fill_window(guide.first, photo, hole, window, seed)
        return _fill(guide, photo[window], hole[window], seed, candidate)
    view = window
    shape = (photo.shape[0], photo.shape[1])
    if guide.prefers_whole_picture:
        view = _wider(window, shape)
    elif guide.side:
        # real surroundings in place of mirrored ones, at no cost
        view = _at_least(window, shape, guide.side)
    filled = _fill(guide, photo[view], hole[view], seed)
    rows, columns = (
        slice(w.start - v.start, w.stop - v.start) for w, v in zip(window, view, strict=True)
    )
    result: NDArray[Any] = filled[rows, columns]
    return result


def correct_window(
    corrector: Guide, picture: NDArray[Any], hole: NDArray[np.bool_], first: NDArray[Any]
) -> NDArray[Any]:
    """A first result for a window, corrected.

    Args:
        corrector: a guide that takes a candidate.
        picture: H x W x 3, uint8 or uint16.
        hole: H x W.
        first: like `picture`.
    """
    return _fill(corrector, picture, hole, 0, first)


def _fill(
    guide: Guide,
    picture: NDArray[Any],
    hole: NDArray[np.bool_],
    seed: int,
    candidate: NDArray[Any] | None = None,
) -> NDArray[Any]:
    if not isinstance(guide, PictureGuide):
        holes = torch.from_numpy(hole)[None, None].float()
        first = None if candidate is None else to_unit_range(candidate[None])
        filled = guide(to_unit_range(picture[None]), holes, seed=seed, candidate=first)
        result: NDArray[Any] = from_unit_range(filled, picture.dtype)[0]
        return result
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
