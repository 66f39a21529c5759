"""PSNR, SSIM and L1 of pairs of 8-bit RGB pictures, whole or inside the hole, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import InputError

Picture = NDArray[np.uint8]
Plane = NDArray[np.float64]
Filter = Callable[[Plane], Plane]

PEAK = 255.0
#: of SSIM's Gaussian window
WINDOW, SIGMA = 11, 1.5
#: side of the flat window
FLAT = 7


def _differences(a: Picture, b: Picture, where: NDArray[np.bool_] | None) -> Plane:
    away = a.astype(np.float64) - b
    return away if where is None else np.asarray(away[where])


def l1(a: Picture, b: Picture, where: NDArray[np.bool_] | None = None) -> float:
    """Mean absolute difference of levels / 255; over `where` (H x W) alone if given."""
    return float(np.abs(_differences(a, b, where)).mean() / PEAK)


def psnr(a: Picture, b: Picture, where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = float((_differences(a, b, where) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(
    a: Picture, b: Picture, where: NDArray[np.bool_] | None = None, kind: str = "gaussian"
) -> float:
    """Structural similarity (Wang et al., 2004), mean over pixels and channels.

    Args:
        a, b: H x W x 3.
        where: H x W; the mean is taken over these pixels alone.
        kind: "gaussian" (the papers': 11 x 11 Gaussian window, border of 5 left out), "flat" (7 x 7
            flat window, unbiased variances, border of 3 left out) or "padded" (Gaussian, the
            pictures go on in black, nothing left out).

    Raises:
        InputError: a picture smaller than the window.
    """
    side = FLAT if kind == "flat" else WINDOW
    if min(a.shape[:2]) < side:
        raise InputError(f"SSIM needs pictures of at least {side}x{side} pixels")
    values = np.stack([_ssim_map(a[..., c], b[..., c], kind) for c in range(3)], axis=-1)
    inside = np.ones(a.shape[:2], bool) if where is None else where
    if kind != "padded":
        border = side // 2
        crop = np.s_[border:-border, border:-border]
        values, inside = values[crop], inside[crop]
    return float(values[inside].mean()) if inside.any() else math.nan


def _ssim_map(a: NDArray[Any], b: NDArray[Any], kind: str) -> Plane:
    x, y = a.astype(np.float64), b.astype(np.float64)
    smooth: Filter = {"gaussian": _gaussian, "flat": _flat, "padded": _padded}[kind]
    unbiased = FLAT**2 / (FLAT**2 - 1) if kind == "flat" else 1.0
    mean_x, mean_y = smooth(x), smooth(y)
    var_x = unbiased * (smooth(x * x) - mean_x**2)
    var_y = unbiased * (smooth(y * y) - mean_y**2)
    both = unbiased * (smooth(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return np.asarray(likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)))


def _taps() -> NDArray[np.float64]:
    at = np.arange(WINDOW) - WINDOW // 2
    taps = np.exp(-0.5 * (at / SIGMA) ** 2)
    return np.asarray(taps / taps.sum())


def _gaussian(plane: Plane) -> Plane:
    return np.asarray(cv2.sepFilter2D(plane, cv2.CV_64F, _taps(), _taps()))


def _padded(plane: Plane) -> Plane:
    border = cv2.BORDER_CONSTANT
    return np.asarray(cv2.sepFilter2D(plane, cv2.CV_64F, _taps(), _taps(), borderType=border))


def _flat(plane: Plane) -> Plane:
    return np.asarray(cv2.blur(plane, (FLAT, FLAT)))
