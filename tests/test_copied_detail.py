"""Fine detail that a correction softened: brought back, never invented, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from d2s_cli.guides.copied_detail import LARGEST_GAIN, SHARE, _blurred, keep_detail

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
