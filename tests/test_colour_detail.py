"""Colour speckle in a fill is weakened to what its surroundings have."""

from __future__ import annotations

import numpy as np

from d2s_cli.images.colour_detail import calm_colour

HOLE = np.zeros((120, 140), bool)
HOLE[40:90, 40:100] = True


def speckled(colour: float, grey: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, colour, (120, 140, 3)) + rng.normal(0, grey, (120, 140, 1))
    return (128 + noise).clip(0, 255).astype(np.uint8)


def colour_strength(picture: np.ndarray) -> float:
    levels = picture[HOLE].astype(float)
    return float((levels - levels.mean(axis=1, keepdims=True)).std())


def test_speckle_in_grey_surroundings_goes_and_the_grain_stays() -> None:
    around, fill = speckled(0, 12), speckled(15, 12, 1)
    picture = np.where(HOLE[..., None], fill, around)
    calm = calm_colour(picture, HOLE)
    assert colour_strength(calm) < 0.25 * colour_strength(picture)
    assert (calm[~HOLE] == around[~HOLE]).all()
    before, after = (p[HOLE].astype(float).mean(axis=1) for p in (picture, calm))
    assert np.abs(before - after).max() < 1.5


def test_colour_that_the_surroundings_have_too_stays() -> None:
    picture = speckled(15, 5)
    difference = calm_colour(picture, HOLE).astype(int) - picture
    assert np.abs(difference).mean() < 1


def test_slow_changes_of_colour_stay() -> None:
    around = np.full((120, 140, 3), 128, np.uint8)
    fill = np.linspace([90, 120, 160], [150, 130, 100], 140).round().astype(np.uint8)
    picture = np.where(HOLE[..., None], fill[None], around)
    inner = np.s_[55:75, 60:80]
    assert np.abs(calm_colour(picture, HOLE)[inner].astype(int) - picture[inner]).max() <= 2


def test_sixteen_bits_and_odd_holes() -> None:
    deep = speckled(15, 5).astype(np.uint16) * 257
    assert calm_colour(deep, HOLE).dtype == np.uint16
    assert (calm_colour(deep, np.ones((120, 140), bool)) == deep).all()
