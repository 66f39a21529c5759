"""Edges as scikit-image 0.26 finds them: its own maps, and itself where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import photo
from guide_checks import golden

from d2s_cli.guides.canny import canny
from d2s_cli.guides.edgeconnect import grey_of


@pytest.mark.parametrize(
    ("name", "steps", "whole", "sigma"),
    [
        ("canny_whole", 1, True, 2.0),
        ("canny_hole", 1, False, 2.0),
        ("canny_flat", 48, False, 2.0),
        ("canny_fine", 1, False, 0.8),
    ],
)
def test_edges_are_scikit_images(name: str, steps: int, whole: bool, sigma: float) -> None:
    picture = golden("guide_picture.npz", "picture").numpy() // steps * steps
    known = ~golden("guide_picture.npz", "hole").numpy() | whole
    expected = golden("edgeconnect.npz", name).numpy()
    assert expected.sum() > 600
    assert np.array_equal(canny(grey_of(picture), known, sigma), expected)


@pytest.mark.parametrize("seed", range(12))
def test_edges_are_those_of_the_scikit_image_that_is_here(seed: int) -> None:
    feature = pytest.importorskip("skimage.feature")
    color = pytest.importorskip("skimage.color")
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 130, 2))
    picture = photo(height, width, seed)
    if seed % 3 == 0:  # many equal gradients
        picture = picture // 40 * 40
    known = rng.random((height, width)) > (0.01 if seed % 2 else -1)
    known[height // 3 : height // 2, width // 4 : width // 2] = False
    grey = grey_of(picture)
    assert np.array_equal(grey, color.rgb2gray(picture))
    assert np.array_equal(canny(grey, known), feature.canny(grey, sigma=2, mask=known))


def test_hidden_pixels_do_not_matter_and_have_no_edges() -> None:
    rng = np.random.default_rng(0)
    grey = grey_of(photo(60, 80))
    known = np.ones(grey.shape, bool)
    known[20:45, 30:50] = False
    edges = canny(grey, known)
    assert edges.any()
    assert not edges[19:46, 29:51].any()
    assert np.array_equal(canny(np.where(known, grey, rng.random(grey.shape)), known), edges)


def test_a_picture_of_which_nothing_is_known_has_no_edges() -> None:
    assert not canny(np.ones((20, 20)), np.zeros((20, 20), bool)).any()
