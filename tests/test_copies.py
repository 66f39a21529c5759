"""What corrections do to copied texture: detail comes back, ghosts go, nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from d2s_cli.guides.copies import LARGEST_GAIN, SHARE, _blurred, keep_detail, without_ghosts

HOLE = torch.zeros(1, 1, 64, 80)
HOLE[..., 12:52, 16:64] = 1


def grain(seed: int, strength: float = 0.2) -> Tensor:
    return strength * torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(seed))


def strength_in_hole(x: Tensor) -> float:
    detail = (x - _blurred(x, 1.0)).square().mean(1, keepdim=True)
    return float((detail * HOLE).sum() / HOLE.sum()) ** 0.5


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_a_fill_as_detailed_as_the_copy_comes_back_and_known_pixels_always_do(
    seed: int, weight: float
) -> None:
    copied = grain(seed)
    assert torch.allclose(keep_detail(copied, copied, HOLE), copied, atol=1e-6)
    softer = torch.lerp(_blurred(copied, 2.0), copied, weight)
    kept = keep_detail(softer, copied, HOLE)
    assert torch.equal(kept * (1 - HOLE), softer * (1 - HOLE))
    # a copy that is the softer one takes nothing away
    assert torch.allclose(keep_detail(copied, softer, HOLE), copied, atol=1e-6)


def test_lost_strength_comes_back_by_its_share() -> None:
    copied = grain(0)
    softer = torch.lerp(_blurred(copied, 3.0), copied, 0.8)
    lost = strength_in_hole(copied) / strength_in_hole(softer)
    assert 1.1 < lost < LARGEST_GAIN
    gained = strength_in_hole(keep_detail(softer, copied, HOLE)) / strength_in_hole(softer)
    assert np.log(gained) / np.log(lost) == pytest.approx(SHARE, abs=0.1)


def test_a_smear_is_raised_to_a_limit_and_a_flat_fill_stays_flat() -> None:
    copied = grain(0)
    smear = _blurred(copied, 1.0)
    kept = keep_detail(smear, copied, HOLE)
    assert strength_in_hole(kept) < (LARGEST_GAIN + 0.01) * strength_in_hole(smear)
    flat = torch.full((1, 3, 64, 80), 0.3)
    assert torch.allclose(keep_detail(flat, copied, HOLE), flat, atol=1e-6)


def test_pictures_do_not_depend_on_others_of_the_batch() -> None:
    copied, other = grain(0), grain(1, 0.9)
    softer = _blurred(torch.cat([copied, other]), 0.8)
    together = keep_detail(softer, torch.cat([copied, other]), HOLE.repeat(2, 1, 1, 1))
    assert torch.allclose(together[:1], keep_detail(softer[:1], copied, HOLE), atol=1e-6)


@given(st.integers(0, 2**31), st.floats(-6, 6))
def test_small_changes_of_colour_stay(seed: int, levels: float) -> None:
    copied = grain(seed)
    corrected = torch.where(HOLE > 0, copied + levels / 127.5, copied)
    assert torch.allclose(without_ghosts(corrected, copied, HOLE), corrected, atol=1e-6)


@pytest.mark.parametrize("levels", [-60.0, 30.0, 90.0])
def test_a_ghost_is_taken_back_with_its_fringe_and_nothing_far_from_it(levels: float) -> None:
    copied = grain(0)
    down, right = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    away = ((down - 32).square() + (right - 26).square()).sqrt()
    ghost = (1 - (away - 5) / 8).clamp(0, 1) * levels / 127.5  # soft-edged
    shade = 4 / 127.5
    corrected = torch.where(HOLE > 0, copied + shade + ghost, copied)
    kept = without_ghosts(corrected, copied, HOLE)
    change = 127.5 * (kept - copied)[0, 0]
    assert torch.equal(kept * (1 - HOLE), copied * (1 - HOLE))
    inside = HOLE[0, 0] > 0
    assert float(change[inside & (away < 10)].abs().max()) < 0.2 * abs(levels)
    assert torch.allclose(change[inside & (away > 34)], torch.tensor(4.0), atol=0.01)
    # no ring is left that is stronger than what was kept round it
    assert float(change.abs().max()) < 9
