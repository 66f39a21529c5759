"""d2s bench: the published way computes the same, and the command prints what it measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from typer.testing import CliRunner

from d2s_cli.bench import report
from d2s_cli.bench.measure import time_in_turns
from d2s_cli.bench.photos import HOLE_PIXELS, make_holes, make_photo
from d2s_cli.bench.published import predict_injected, published_copy, refine_as_published
from d2s_cli.cli.app import app
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNet


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    torch.manual_seed(0)
    unet = UNet(TINY).eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return Refiner(unet, RefinerConfig(unet=TINY))


def test_the_published_way_of_computing_gives_the_same_prediction(refiner: Refiner) -> None:
    condition, x_t, guide_t = torch.randn(3, 2, 3, 32, 40).unbind()
    levels = torch.tensor([0.9, 0.4])
    ours = refiner.predict_noise(condition, x_t, levels, guide_t)
    theirs = predict_injected(published_copy(refiner.unet), condition, x_t, guide_t, levels)
    assert float((ours - theirs).abs().max()) < 1e-4 * float(ours.abs().max())


def test_the_published_way_keeps_known_pixels_and_ends_without_noise(refiner: Refiner) -> None:
    image, hole = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(1, 1, 16, 16)
    hole[..., 4:12, 4:12] = 1
    unet, table = published_copy(refiner.unet), NoiseTable(1000)
    out = refine_as_published(unet, "eps", image, hole, image, range(5, 0, -1), table)
    assert torch.equal(out * (1 - hole), image * (1 - hole))
    # five steps of a table that begins with 1e-6 are hardly any noise
    assert float((out - image).abs().max()) < 0.05


def test_pieces_are_run_in_turns() -> None:
    order: list[str] = []
    work = {name: (lambda n=name: order.append(n)) for name in "ab"}
    timings = time_in_turns(work, torch.device("cpu"), 3)
    assert "".join(order) == "ab" + "ab" * 3
    assert all(t.low <= t.median <= t.high and t.runs == 3 for t in timings.values())


@pytest.mark.parametrize("count", [1, 10, 100])
def test_holes_have_the_same_area_however_many_they_are(count: int) -> None:
    photo = make_photo(3)
    assert photo.shape == (1500, 2000, 3)
    hole = make_holes((1500, 2000), count)
    assert hole.sum() == pytest.approx(HOLE_PIXELS, rel=0.05)
    import cv2

    assert cv2.connectedComponents(hole.astype(np.uint8))[0] - 1 == count


def test_the_command_prints_tables_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = report.Extent(runs=1, batches=(1,), photos=(0.02,), holes=(1, 2), files=2)
    monkeypatch.setattr(report, "QUICK", tiny)
    monkeypatch.setattr(report, "WINDOW", 32)
    told = CliRunner().invoke(app, ["bench", "--quick", "--json", "-d", "cpu"])
    assert told.exit_code == 0, told.output
    result = json.loads(told.stdout)
    assert result["machine"]["device"].startswith("CPU")
    titles = [section["title"].split()[0] for section in result["sections"]]
    assert titles == ["Network", "Refining", "Photographs,"]
    assert len(result["sections"][2]["rows"]) == 3
    text = CliRunner().invoke(app, ["bench", "--quick", "--part", "network", "-d", "cpu"])
    assert "| 3x3 convolution, 64 channels at 128 |" in text.stdout


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--part", "gpu"], "unknown part"), (["--quick", "--full"], "exclude")]
)
def test_wrong_use_is_said(arguments: list[str], said: str) -> None:
    told = CliRunner().invoke(app, ["bench", *arguments])
    assert told.exit_code != 0
    assert said in str(told.exception)
