"""Random masks cover what those of the published generators do; measured with the official codes
over 2,000 masks of 256 x 256."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import d2s, photo

from d2s_cli.images.draw_masks import draw_hole, irregular_mask, mat_mask

#: % of masks by tenth of hole share, and % of the top row and of the centre that is hole
MAT = {
    "large": ([5.7, 10.2, 14.3, 17.6, 18.3, 18.5, 10.9, 3.9, 0.9, 0.1], 25, 48),
    "small": ([22.8, 28.3, 22.9, 14.0, 7.0, 3.1, 1.6, 0.6, 0.1, 0.0], 13, 28),
}
#: mean of all candidates; deviation and median of those that are kept
LAMA = {
    "thin": (0.295, 0.129, 0.298),
    "medium": (0.242, 0.134, 0.261),
    "thick": (0.401, 0.128, 0.262),
}


@pytest.mark.parametrize("kind", MAT)
def test_mat_masks_cover_what_the_published_ones_do(kind: str) -> None:
    tenths, top, centre = MAT[kind]
    holes = np.stack([mat_mask(np.random.default_rng(i), 256, kind) for i in range(1000)])
    shares = holes.mean(axis=(1, 2))
    found = 100 * np.histogram(shares, 10, (0, 1))[0] / len(shares)
    assert np.abs(found - tenths).max() < 5
    assert 100 * holes[:, [0, -1]].mean() == pytest.approx(top, abs=3)
    assert 100 * holes[:, 118:138, 118:138].mean() == pytest.approx(centre, abs=4)


@pytest.mark.parametrize("width", LAMA)
def test_lama_masks_cover_what_the_published_ones_do(width: str) -> None:
    mean, deviation, median = LAMA[width]
    rngs = [np.random.default_rng(i) for i in range(500)]
    candidates = np.array([irregular_mask(rng, 256, width).mean() for rng in rngs])
    assert candidates.mean() == pytest.approx(mean, abs=0.03)
    if width == "thick":
        assert (candidates > 0.5).mean() == pytest.approx(0.35, abs=0.06)
    kept = candidates[candidates <= 0.5]
    assert kept.std() == pytest.approx(deviation, abs=0.015)
    assert np.median(kept) == pytest.approx(median, abs=0.03)


def test_a_made_mask_belongs_to_its_pictures_name_and_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photo(tmp_path / f"pictures/{name}.png", (256, 256))
    for folder, seed in (("one", 4), ("again", 4), ("two", 5)):
        words = ("--from", "random", "--kind", "mat-small", "--seed", seed)
        d2s("mask", "make", tmp_path / "pictures", *words, "-o", tmp_path / folder)
    read = {p: np.asarray(Image.open(p)) for p in tmp_path.glob("*/*_mask.png")}
    one = read[tmp_path / "one/a_mask.png"]
    rng = np.random.default_rng([4, zlib.crc32(b"a"), 0])
    assert np.array_equal(one == 255, draw_hole("mat-small", 256, 256, rng))
    assert np.array_equal(one, read[tmp_path / "again/a_mask.png"])
    assert not np.array_equal(one, read[tmp_path / "two/a_mask.png"])
    assert not np.array_equal(one, read[tmp_path / "one/b_mask.png"])
