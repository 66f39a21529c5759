"""Soft fills get back the detail that they still hold; nothing else is touched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2s_cli.images.sharpening import LARGEST_GAIN, TARGET, octave_gains, sharpen_fill

HOLE = np.zeros((160, 200), bool)
HOLE[40:120, 50:150] = True


def detailed(seed: int = 0) -> np.ndarray:
    """Detail at every scale, uint8."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 12, (160 // s, 200 // s, 3)), (200, 160), interpolation=2)
        for s in (1, 2, 4, 8, 16)
    ]
    return (128 + sum(layers)).clip(0, 255).astype(np.uint8)


def with_fill(picture: np.ndarray, fill: np.ndarray) -> np.ndarray:
    return np.where(HOLE[..., None], fill, picture)


def error(picture: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(picture[HOLE].astype(float) - truth[HOLE]).mean())


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
def test_a_blurred_fill_comes_nearer_to_the_truth(sigma: float) -> None:
    truth = detailed()
    soft = with_fill(truth, cv2.GaussianBlur(truth, (0, 0), sigma))
    sharp = sharpen_fill(soft, HOLE)
    assert error(sharp, truth) < 0.9 * error(soft, truth)
    assert (sharp[~HOLE] == truth[~HOLE]).all()


def test_a_sharp_fill_is_left_alone() -> None:
    picture = with_fill(detailed(), detailed(1))
    assert (sharpen_fill(picture, HOLE) == picture).all()


def test_a_flat_fill_stays_flat_inside() -> None:
    picture = with_fill(detailed(), np.full((160, 200, 3), 128, np.uint8))
    middle = sharpen_fill(picture, HOLE)[70:90, 90:110].astype(int)
    assert np.abs(middle - 128).max() <= 1


def test_flat_surroundings_stay_flat() -> None:
    ramp = np.linspace(50, 200, 200).round().astype(np.uint8)[None, :, None]
    picture = np.broadcast_to(ramp, (160, 200, 3)).copy()
    assert np.abs(sharpen_fill(picture, HOLE).astype(int) - picture).max() <= 1


def test_sixteen_bits_are_sharpened_like_eight() -> None:
    truth = detailed()
    soft = with_fill(truth, cv2.GaussianBlur(truth, (0, 0), 1.5))
    deep = sharpen_fill(soft.astype(np.uint16) * 257, HOLE)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - sharpen_fill(soft, HOLE)).max() <= 0.51


@given(st.lists(st.floats(0.01, 3), min_size=4, max_size=4))
def test_gains_never_weaken_and_have_a_limit(strengths: list[float]) -> None:
    gains = octave_gains(strengths)
    assert all(1 <= gain <= LARGEST_GAIN for gain in gains)
    raised = [s * g for s, g in zip(strengths, gains, strict=True) if g > 1]
    assert all(strength <= TARGET + 1e-9 for strength in raised)
