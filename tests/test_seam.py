"""The seam score on made-up seams of known strength, and on pictures that nobody touched."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from d2s_cli.metrics.seam import Seam, seam

Picture = NDArray[np.uint8]
Hole = NDArray[np.bool_]


def textured(seed: int, height: int = 128, width: int = 144) -> Picture:
    """A picture with grain of 6 levels that is correlated over a pixel or two."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)), (0, 0), 0.8)
    levels = photo(height, width, seed) + 6 * grain / grain.std()
    return levels.clip(0, 255).round().astype(np.uint8)


def box(height: int = 128, width: int = 144) -> Hole:
    hole = np.zeros((height, width), bool)
    hole[34:92, 40:100] = True
    return hole


def filled(picture: Picture, hole: Hole, fill: NDArray[np.floating]) -> Picture:
    out = picture.copy()
    out[hole] = np.clip(fill[hole], 0, 255).round()
    return out


def judged(change: Callable[[Picture], NDArray[np.floating]], count: int = 4) -> Seam:
    """Means over pictures whose hole holds what `change` makes of them."""
    hole = box()
    found = [seam(filled(p, hole, change(p.copy())), hole) for p in map(textured, range(count))]
    values = [(one.score, one.step, one.texture) for one in found if one is not None]
    assert len(values) == count
    return Seam(*np.mean(values, axis=0))


def test_it_rises_with_the_strength_of_a_step() -> None:
    scores = [
        judged(lambda p, s=s: p + s * np.sign(127.5 - p.mean())) for s in (0, 3, 6, 12, 24, 48)
    ]
    assert all(b.score > a.score for a, b in itertools.pairwise(scores))
    assert scores[0].score < 0.1
    assert scores[-1].score > 0.8
    # it is the step that shows, and nothing else
    assert scores[-1].texture == pytest.approx(scores[0].texture, abs=0.02)


def test_the_step_is_what_its_definition_says() -> None:
    """On flat pictures a step of s gives s^2 / (s^2 + 4) at every scale."""
    hole = box()
    for step in (1, 2, 5, 50):
        picture = np.full((128, 144, 3), 100, np.uint8)
        picture[hole] += step
        found = seam(picture, hole)
        assert found is not None
        assert found.step == pytest.approx(step**2 / (step**2 + 4), abs=1e-5)
        assert found.texture == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_it_rises_with_texture_of_another_strength(kind: str) -> None:
    rng = np.random.default_rng(0)
    changes = {
        "blur": lambda p, s: cv2.GaussianBlur(p.astype(float), (0, 0), s),
        "noise": lambda p, s: p + rng.normal(0, 8 * s, p.shape),
    }
    untouched = judged(lambda p: p)
    scores = [judged(lambda p, s=s: changes[kind](p, s)) for s in (0.8, 1.6, 3.2)]
    assert untouched.score < scores[0].score < scores[1].score < scores[2].score


def test_blur_does_not_pay() -> None:
    """Blurring a fill that has a step takes less from the step than it adds in texture."""

    def stepped(p: Picture) -> NDArray[np.floating]:
        return p + 8.0 * np.sign(127.5 - p.mean())

    sharp = judged(stepped)
    blurred = judged(lambda p: cv2.GaussianBlur(stepped(p), (0, 0), 3))
    smooth = judged(lambda p: np.full(p.shape, p.mean(axis=(0, 1)), float))
    assert sharp.score < blurred.score < smooth.score


def test_untouched_pictures_stay_at_the_floor() -> None:
    found = [seam(textured(i), box()) for i in range(8)]
    assert max(one.score for one in found if one) < 0.12
    assert max(one.step for one in found if one) < 0.05


def test_a_ramp_is_no_seam() -> None:
    hole = box()
    ramp = np.repeat(np.arange(144, dtype=np.uint8)[None, :, None], 128, axis=0).repeat(3, axis=2)
    found = seam(ramp, hole)
    assert found is not None
    assert found.score == pytest.approx(0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000), st.booleans())
def test_any_hole_gives_a_score_between_0_and_1_or_none(seed: int, cut: int, deep: bool) -> None:
    rng = np.random.default_rng(seed)
    hole = cv2.GaussianBlur(rng.normal(size=(40, 37)), (0, 0), 2) > rng.normal(0, 0.1)
    picture = rng.integers(0, 256, (40, 37, 3)).astype(np.uint8)
    if deep:
        picture = picture.astype(np.uint16) * 257
    found = seam(picture, hole)
    if found is not None:
        for value in (found.score, found.step, found.texture):
            assert 0 <= value <= 1 + 1e-6


def test_both_depths_and_both_turns_give_one_score() -> None:
    picture, hole = textured(0), box()
    found = seam(picture, hole)
    assert found is not None
    for same in (
        seam(picture.astype(np.uint16) * 257, hole),
        seam(np.ascontiguousarray(picture.swapaxes(0, 1)), np.ascontiguousarray(hole.T)),
        seam(picture[:, ::-1], hole[:, ::-1]),
    ):
        assert same is not None
        assert same.score == pytest.approx(found.score, abs=0.01)


def test_without_an_edge_there_is_no_score() -> None:
    picture = textured(0)
    for hole in (np.zeros((128, 144), bool), np.ones((128, 144), bool)):
        assert seam(picture, hole) is None
    thin = np.zeros((128, 144), bool)
    thin[50, 50] = True
    assert seam(picture, thin) is None
