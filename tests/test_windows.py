"""Windows round holes and the texture that decides how far a fill is noised."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2s_cli.images.regions import BUCKETS, MERGE_GAP, hole_windows
from d2s_cli.images.texture import missing_texture
from d2s_cli.recipe import MEASURED_ON, adapted_tk


@st.composite
def holes(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(20, 900)), draw(st.integers(20, 900))
    hole = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(0, 6))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        hole[top : top + draw(st.integers(1, 300)), left : left + draw(st.integers(1, 300))] = True
    return hole


@settings(max_examples=60, deadline=None)
@given(holes(), st.sampled_from([128, 256, 512]))
def test_every_hole_pixel_is_answered_for_exactly_once(hole: np.ndarray, largest: int) -> None:
    answered = np.zeros(hole.shape, int)
    for window in hole_windows(hole, largest):
        assert window.top >= 0
        assert window.left >= 0
        assert window.top + window.height <= hole.shape[0]
        assert window.left + window.width <= hole.shape[1]
        answered[window.slices] += window.own
    assert (answered == hole).all()


def test_windows_come_in_buckets_with_the_hole_in_the_middle() -> None:
    hole = np.zeros((1000, 1200), bool)
    hole[480:520, 580:640] = True
    (window,) = hole_windows(hole)
    assert (window.height, window.width) == (128, 128)
    speck = np.zeros((1000, 1200), bool)
    speck[480:490, 580:584] = True
    assert [(w.height, w.width) for w in hole_windows(speck)] == [(48, 48)]
    assert abs(window.top + window.height / 2 - 500) <= 1
    assert abs(window.left + window.width / 2 - 610) <= 1


def test_far_holes_get_windows_of_their_own_and_near_ones_share() -> None:
    hole = np.zeros((1000, 1000), bool)
    hole[100:110, 100:110] = hole[100:110, 115 + MERGE_GAP // 2 : 120 + MERGE_GAP // 2] = True
    hole[800:810, 800:810] = True
    assert len(hole_windows(hole)) == 2


def test_holes_whose_windows_would_be_the_whole_picture_share_one() -> None:
    hole = np.zeros((256, 256), bool)
    hole[10:20, 10:20] = hole[200:230, 150:160] = True
    assert len(hole_windows(hole)) == 2
    (window,) = hole_windows(hole, context=256)
    assert (window.top, window.left, window.height, window.width) == (0, 0, 256, 256)
    assert (window.own == hole).all()


def test_a_hole_larger_than_every_bucket_gets_one_window_with_context() -> None:
    hole = np.zeros((2000, 2000), bool)
    hole[500:1500, 600:1400] = True
    (window,) = hole_windows(hole, BUCKETS[-1])
    assert window.height > 1000
    assert window.own.sum() == hole.sum()


def test_few_sizes_serve_many_holes() -> None:
    rng = np.random.default_rng(0)
    hole = np.zeros((3000, 4000), bool)
    for y in range(100, 2900, 400):
        for x in range(100, 3900, 400):
            hole[y : y + rng.integers(3, 60), x : x + rng.integers(3, 60)] = True
    assert len({(w.height, w.width) for w in hole_windows(hole)}) <= 4


def grain(strength: float, seed: int = 0) -> np.ndarray:
    """A soft gradient with film grain of the given deviation, 8-bit levels."""
    ramp = np.linspace(80, 160, 200, dtype=np.float32)[None].repeat(160, 0)[..., None].repeat(3, 2)
    noise = np.random.default_rng(seed).normal(size=(160, 200, 1)) * strength
    return (ramp + noise).clip(0, 255).astype(np.uint8)


HOLE = np.zeros((160, 200), bool)
HOLE[50:110, 60:140] = True


def smooth_fill(picture: np.ndarray) -> np.ndarray:
    return np.where(HOLE[..., None], cv2.GaussianBlur(picture, (0, 0), 9), picture)


def test_an_untouched_picture_lacks_next_to_nothing() -> None:
    assert missing_texture(grain(12), HOLE) < 3


@pytest.mark.parametrize("strength", [4, 10, 20])
def test_a_smooth_fill_lacks_the_texture_round_it(strength: float) -> None:
    lacking = missing_texture(smooth_fill(grain(strength)), HOLE)
    assert lacking == pytest.approx(strength, rel=0.2)


def test_a_smooth_fill_in_flat_surroundings_lacks_nothing() -> None:
    assert missing_texture(smooth_fill(grain(0)), HOLE) < 1


def test_sixteen_bit_pictures_are_measured_in_eight_bit_levels() -> None:
    picture = smooth_fill(grain(10))
    deep = picture.astype(np.uint16) * 257
    assert missing_texture(deep, HOLE) == pytest.approx(missing_texture(picture, HOLE), rel=1e-3)


@pytest.mark.parametrize("hole", [np.ones((40, 40), bool), np.eye(40, dtype=bool)])
def test_odd_holes_are_measured_without_complaint(hole: np.ndarray) -> None:
    assert missing_texture(grain(10)[:40, :40], hole) >= 0


@given(st.floats(0, 80), st.floats(0, 80), st.floats(0.2, 3))
def test_more_missing_texture_never_starts_later(a: float, b: float, gain: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= adapted_tk(low, gain, 200) <= adapted_tk(high, gain, 200) <= 200


def test_the_start_has_the_noise_of_the_texture_that_lacks() -> None:
    tk = adapted_tk(20.0, 1.0, 200)
    alpha_bar = MEASURED_ON.at(tk)
    assert ((1 - alpha_bar) / alpha_bar) ** 0.5 * 127.5 == pytest.approx(20, rel=0.1)
    assert adapted_tk(0.0, 1.0, 200) == 0
