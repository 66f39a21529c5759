"""CUDA graphs: elsewhere the plain function, on a GPU the same numbers."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY

from d2s_cli.diffusion.graphs import GraphedCalls
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.unet import UNet
from d2s_cli.runtime import Compute


def test_without_a_gpu_the_function_is_called_as_it_is() -> None:
    calls = GraphedCalls(lambda a, b: a + 2 * b)
    a, b = torch.ones(3), torch.arange(3.0)
    assert torch.equal(calls(a, b), torch.tensor([1.0, 3.0, 5.0]))
    assert not calls.recordings


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_replayed_graphs_give_the_networks_numbers_for_every_shape() -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    unet = UNet(TINY).eval().requires_grad_(False).to(device)
    refiner = Refiner(unet, RefinerConfig(unet=TINY), Compute(device))
    refiner._plain.limit = 2
    with torch.inference_mode():
        for side in (32, 48, 64, 32):
            x = torch.randn(2, 3, side, side, device=device)
            level = torch.full((1,), 0.7, device=device)
            expected = refiner._network(torch.cat([x, x], 1), level)
            for _ in range(2):
                assert torch.allclose(refiner.predict(x, x, level), expected, atol=1e-5)
    assert refiner._plain.works
    assert len(refiner._plain.recordings) == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_graph_recorded_in_inference_mode_serves_calls_outside_of_it() -> None:
    calls = GraphedCalls(lambda x: 2 * x + 1)
    ones, twos = torch.ones(4, device="cuda"), torch.full((4,), 2.0, device="cuda")
    with torch.inference_mode():
        assert torch.equal(calls(ones), 2 * ones + 1)
    with torch.no_grad():
        assert torch.equal(calls(twos), 2 * twos + 1)
    assert calls.works
    assert len(calls.recordings) == 1
