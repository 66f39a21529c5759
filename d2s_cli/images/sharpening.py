"""Bring back the detail that a soft fill still holds, by the measure of its surroundings.

A result that was blurred, or made small and enlarged, has the structure of its surroundings but
less and less of their detail the finer it gets. Each octave of detail is raised towards the
strength that it has round the hole. Nothing is invented: what the fill does not hold at all is left
to the refiner.
"""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.images.texture import MARGIN, erode, surroundings

#: Gaussian deviations that bound the octaves, pixels; octave 0 is what is finer than the first
OCTAVES = (1.0, 2.0, 4.0, 8.0)
#: known pixels up to this far from the hole are its surroundings
REACH = 32
#: a fill whose finest octave is weaker than this share of its surroundings' is soft
SOFT = 0.6
#: octaves are raised only as long as the next coarser one has this share of the surroundings'
#: strength: under a smear there is nothing to raise
STRUCTURE = 0.6
#: octaves are raised to this share of the surroundings' strength; all of it would sharpen too much
#: where a fill shows something calmer than what is round it
TARGET = 0.8
#: no octave is raised more than this many times
LARGEST_GAIN = 3.0
#: variance of 8-bit rounding and a little grain, levels squared; keeps flat regions flat
FLOOR = 0.02

Octaves = list[NDArray[np.float32]]


def sharpen_fill(picture: NDArray[Any], hole: NDArray[np.bool_]) -> NDArray[Any]:
    """Sharpen a soft fill; a sharp one, or one without structure, comes back as it is.

    Args:
        picture: filled picture, H x W x 3, uint8 or uint16.
        hole: H x W, True where it was filled; other pixels stay.

    Returns:
        Like `picture`.
    """
    scale = float(np.iinfo(picture.dtype).max)
    octaves = _split(picture.astype(np.float32) * (255 / scale))
    gains = octave_gains(_strengths(octaves[:-1], hole))
    if max(gains) == 1:
        return picture
    sharp = octaves[-1]
    for gain, octave in zip(gains, octaves[:-1], strict=True):
        sharp = sharp + gain * octave
    levels = np.rint(sharp.clip(0, 255) * (scale / 255)).astype(picture.dtype)
    return np.where(hole[..., None], levels, picture)


def octave_gains(strengths: list[float]) -> list[float]:
    """Factors for the octaves, from their strengths in the fill relative to the surroundings.

    Args:
        strengths: finest first; 1 is as strong as round the hole.

    Returns:
        As many factors, 1 to LARGEST_GAIN.
    """
    gains = [1.0] * len(strengths)
    if strengths[0] >= SOFT:
        return gains
    coarser = strengths[-1]
    for k in range(len(strengths) - 2, -1, -1):
        if coarser < STRUCTURE:
            break
        gains[k] = min(max(TARGET / strengths[k], 1.0), LARGEST_GAIN)
        coarser = strengths[k] * gains[k]
    return gains


def _split(levels: NDArray[np.float32]) -> Octaves:
    """Octaves of detail, finest first, and the rest; they add up to the picture."""
    softer = [levels, *(cv2.GaussianBlur(levels, (0, 0), sigma) for sigma in OCTAVES)]
    details = [a - b for a, b in itertools.pairwise(softer)]
    return [*details, softer[-1]]


def _strengths(octaves: Octaves, hole: NDArray[np.bool_]) -> list[float]:
    """Median local deviation in the fill over that in its surroundings, octave by octave."""
    inside = erode(hole, MARGIN)
    around = surroundings(hole, REACH)
    if not around.any():
        return [1.0] * len(octaves)
    ratios = []
    for octave, sigma in zip(octaves, OCTAVES, strict=True):
        side = 2 * int(4 * sigma) + 1
        variance = cv2.blur(octave.mean(axis=2) ** 2, (side, side)) + FLOOR
        ratios.append(float(np.median(variance[inside]) / np.median(variance[around])) ** 0.5)
    return ratios
