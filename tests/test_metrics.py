"""Closed forms and properties of the metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st

from d2s_cli.errors import InputError
from d2s_cli.metrics import pixels
from d2s_cli.metrics.distances import (
    Moments,
    frechet_distance,
    frechet_of_features,
    frechet_to_moments,
    inception_score,
    kernel_distance,
    root_trace,
    weighted_kernel_distances,
)
from d2s_cli.metrics.ids import discriminate, fit_plane
from d2s_cli.metrics.inception import SIDE, prepare
from d2s_cli.metrics.intervals import mean_interval, spread_interval
from d2s_cli.metrics.presets import PRESETS
from d2s_cli.metrics.products import between_triangles, gram

QUICK = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def features(count: int, size: int, seed: int, shift: float = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, size)) @ rng.normal(size=(size, size))
    return (mixed + shift).astype(np.float32)


def test_frechet_distance_of_gaussians_that_commute() -> None:
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    a, b = (torch.tensor(d, dtype=torch.float64) for d in ([4.0, 9.0, 0.0], [1.0, 16.0, 25.0]))
    wanted = float(mean @ mean + ((a.sqrt() - b.sqrt()) ** 2).sum())
    found = frechet_distance(mean, a.diag(), torch.zeros(3, dtype=torch.float64), b.diag())
    assert found == pytest.approx(wanted, rel=1e-12)


def test_the_root_of_singular_matrices_is_exact() -> None:
    u = torch.tensor([[3.0, 4.0]], dtype=torch.float64) / 5
    line = u.T @ u  # its own root
    assert root_trace(line * 4, line * 9) == pytest.approx(6)
    assert root_trace(torch.zeros(2, 2, dtype=torch.float64), line) == 0


@QUICK
@given(seeds, st.integers(2, 60), st.integers(2, 60), st.integers(1, 20), st.sampled_from([0, 1]))
def test_both_ways_to_the_frechet_distance_agree(
    seed: int, n: int, m: int, size: int, ddof: int
) -> None:
    """From features (singular values) and from streamed moments (eigenvalues), for any N."""
    a, b = features(n, size, seed), features(m, size, seed + 1, 0.5)
    sides = [Moments.of(side) for side in (a, b)]
    moments = [x for side in sides for x in (side.mean, side.covariance(ddof))]
    streamed = frechet_distance(*moments)
    scale = float(sum(side.covariance(ddof).trace() for side in sides))
    assert frechet_of_features(a, b, ddof) == pytest.approx(streamed, abs=2e-6 * scale)
    mixed = frechet_to_moments(a, *moments[2:], ddof)
    assert mixed == pytest.approx(streamed, abs=2e-6 * scale)


@QUICK
@given(seeds, st.integers(2, 40), st.floats(-100, 100))
def test_frechet_is_symmetric_and_blind_to_a_common_shift(seed: int, n: int, shift: float) -> None:
    a, b = (features(n, 6, seed + i).astype(np.float64) for i in range(2))
    distance = frechet_of_features(a, b, 1)
    assert frechet_of_features(b, a, 1) == pytest.approx(distance, rel=1e-6, abs=1e-6)
    assert frechet_of_features(a + shift, b + shift, 1) == pytest.approx(
        distance, rel=1e-5, abs=1e-5
    )
    assert frechet_of_features(a, a, 1) == pytest.approx(0, abs=1e-6)
    assert frechet_of_features(a, a + shift, 1) == pytest.approx(6 * shift**2, rel=1e-6, abs=1e-6)


@QUICK
@given(seeds, st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_moments_do_not_depend_on_the_batches(seed: int, cuts: list[int]) -> None:
    rows = features(sum(cuts), 5, seed, 1000)
    streamed, halves = Moments(5), [Moments(5), Moments(5)]
    for i, part in enumerate(np.split(rows, np.cumsum(cuts)[:-1])):
        streamed.add(part)
        halves[i % 2].add(part)
    streamed.flush()
    halves[0].merge(halves[1])
    for moments in (streamed, halves[0]):
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=np.float64), rtol=1e-10)
        if len(rows) > 1:
            wanted = np.cov(rows.T.astype(np.float64), ddof=1)
            np.testing.assert_allclose(moments.covariance(1), wanted, atol=1e-6, rtol=1e-6)


@QUICK
@given(seeds, st.integers(1, 40), st.integers(1, 400))
def test_products_of_one_half_are_the_plain_ones(seed: int, n: int, size: int) -> None:
    torch.manual_seed(seed)
    rows = torch.randn(n, size, dtype=torch.float64)
    whole = rows.T @ rows
    torch.testing.assert_close(gram(rows), whole)
    lower = torch.randn(size, size, dtype=torch.float64).tril()
    found = between_triangles(lower, whole)
    torch.testing.assert_close(found.tril(), (lower.T @ whole @ lower).tril(), rtol=1e-8, atol=1e-6)


def test_features_that_are_no_numbers_are_refused() -> None:
    rows = features(10, 4, 0)
    rows[3, 1] = np.nan
    for call in (
        lambda: frechet_of_features(rows, rows, 0),
        lambda: Moments.of(rows),
        lambda: discriminate(rows, rows, paired=True),
        lambda: inception_score(rows),
    ):
        with pytest.raises(InputError, match=r"no numbers \(first: number 4\)"):
            call()
    with pytest.raises(InputError, match="1 picture"):
        frechet_of_features(features(1, 4, 0), features(1, 4, 1), 1)


def test_the_inception_score_of_sure_and_of_clueless_networks() -> None:
    sure = 1000 * np.eye(8, dtype=np.float32)
    assert inception_score(np.tile(sure, (3, 1)), splits=1).mean == pytest.approx(8)
    assert inception_score(np.zeros((16, 8), np.float32)).mean == pytest.approx(1)


def test_the_kernel_distance_is_its_definition() -> None:
    x, y = features(5, 3, 0), features(5, 3, 1)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.astype(float) @ b.astype(float) / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    within = np.mean([kernel(s[i], s[j]) for s in (x, y) for i, j in pairs]) * 2
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y, subsets=3, size=5).mean == pytest.approx(within - 2 * across)
    assert kernel_distance(x, y, subsets=3, size=99).size == 5


@QUICK
@given(seeds, st.integers(2, 30), st.integers(2, 30))
def test_weights_are_copies_of_rows(seed: int, n: int, m: int) -> None:
    """A row of weight 2 is a row that is there twice, without the pairs of it with itself."""
    rng = np.random.default_rng(seed)
    x, y = features(n, 3, seed), features(m, 3, seed + 1)
    counts = [rng.integers(1, 4, size=(k, 2)).astype(float) for k in (n, m)]
    (found, _) = weighted_kernel_distances(x, y, *counts)
    parts = []
    for a, wa, b, wb, same in (
        (x, counts[0], x, counts[0], True),
        (y, counts[1], y, counts[1], True),
        (x, counts[0], y, counts[1], False),
    ):
        kernel = (a.astype(float) @ b.T.astype(float) / 3 + 1) ** 3
        weight = np.outer(wa[:, 0], wb[:, 0])
        if same:
            np.fill_diagonal(weight, 0)
        parts.append((kernel * weight).sum() / weight.sum())
    assert found == pytest.approx(parts[0] + parts[1] - 2 * parts[2], rel=1e-8, abs=1e-8)


@QUICK
@given(seeds, st.integers(3, 40), st.integers(1, 60))
def test_the_fitted_plane_is_the_minimum(seed: int, n: int, size: int) -> None:
    """The gradient of the published objective vanishes there."""
    real, fake = features(n, size, seed).astype(float), features(n, size, seed + 1, 0.3)
    plane = fit_plane(real, fake)
    rows = np.concatenate([real, fake.astype(float)])
    signs = np.repeat([1.0, -1.0], n)
    short = np.maximum(0, 1 - signs * (rows @ plane.weights + plane.bias))
    gradient = plane.weights - 2 * rows.T @ (signs * short)
    scale = np.abs(rows).sum()
    assert np.abs(gradient).max() <= 1e-8 * scale
    assert abs(plane.bias - 2 * (signs * short).sum()) <= 1e-8 * scale


def test_sets_that_are_alike_and_sets_that_are_not() -> None:
    rows = features(50, 8, 0)
    same = discriminate(rows, rows, paired=True)
    assert (same.uids, same.pids) == (0.5, 0.0)
    apart = discriminate(rows, rows + 100, paired=True)
    assert (apart.uids, apart.pids) == (0.0, 0.0)
    with pytest.raises(InputError, match="pairs"):
        discriminate(rows, rows[:20], paired=True)


def test_pixel_scores_in_closed_form() -> None:
    a = photo(40, 50)
    b = np.where(a > 127, a - 5, a + 5).astype(np.uint8)
    assert pixels.psnr(a, b) == pytest.approx(20 * math.log10(255 / 5))
    assert pixels.l1(a, b) == pytest.approx(5 / 255)
    assert pixels.psnr(a, a) == math.inf
    for kind in ("gaussian", "flat", "padded"):
        assert pixels.ssim(a, a, kind=kind) == pytest.approx(1)
    where = np.zeros((40, 50), bool)
    where[10:20, 10:20] = True
    c = a.copy()
    c[~where] = 0
    assert pixels.psnr(a, c, where) == math.inf
    assert pixels.l1(a, c, where) == 0
    with pytest.raises(InputError, match="11x11"):
        pixels.ssim(a[:10], b[:10])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
@pytest.mark.parametrize("size", [(299, 299), (31, 640), (1, 1)])
def test_a_flat_picture_stays_flat_under_every_preset(preset, size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    wanted = (200 - 128) / 128 if preset.centred else 2 * 200 / 255 - 1
    found = prepare(picture, preset)
    assert found.shape == (3, SIDE, SIDE)
    torch.testing.assert_close(found, torch.full_like(found, wanted), rtol=0, atol=1e-5)


def test_a_picture_of_the_networks_own_size_is_not_resampled() -> None:
    picture = photo(SIDE, SIDE)
    for preset in PRESETS.values():
        levels = prepare(picture, preset).permute(1, 2, 0)
        back = levels * 128 + 128 if preset.centred else (levels + 1) * 127.5
        np.testing.assert_allclose(back, picture, atol=1e-3)


def test_intervals_hold_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for i in range(200):
        low, high = mean_interval(rng.exponential(size=60), 300, i) or (0, 0)
        held += low <= 1 <= high
    assert 175 <= held <= 199
    assert mean_interval(np.array([1.0]), 100, 0) is None
    low, high = spread_interval(5.0, rng.normal(7, 1, 1000))
    assert low + high == pytest.approx(10)
    assert high - low == pytest.approx(2 * 1.96, rel=0.1)
