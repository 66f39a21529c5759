"""Windows of many pictures through guides with networks, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_weights, photo
from PIL import Image
from torch import Tensor

from d2s_cli import engine, filling
from d2s_cli.errors import UsageError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.network import NetworkGuide, draw_normal, seeded_noise

#: corners of the holes: three pictures with windows of one size, one with two far holes
HOLES = [[(40, 50)], [(70, 90)], [(60, 30)], [(20, 20), (20, 400)]]


class Dice(NetworkGuide):
    """One colour for each hole, drawn from its seed and darkened by what is known."""

    name = "dice"
    side = 256

    def __init__(self, room: int = 100, bad: float | None = None) -> None:
        super().__init__("cpu")
        self.room, self.bad = room, bad
        self.counts: list[int] = []

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        self.counts.append(len(image))
        if len(image) > self.room:
            raise torch.OutOfMemoryError("made up")
        colour = draw_normal(seeded_noise(seeds), (3, 1, 1)).tanh() / 2 + image.mean(
            (1, 2, 3), True
        )
        if self.bad is not None:
            # the brightest picture's result is nonsense
            colour = torch.where(image.amax((1, 2, 3), True) > 0.99, self.bad, colour)
        return colour.expand_as(image)


class OneByOne(NetworkGuide):
    """As packages wrote them before there were several seeds."""

    name = "one by one"

    def __init__(self) -> None:
        super().__init__("cpu")
        self.seen: list[tuple[int, int]] = []

    def predict(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        self.seen.append((len(image), seed))
        return torch.full_like(image, seed % 10 / 10)


class Changed(Dice):
    """A subclass that knows the older method alone."""

    def predict(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        return torch.full_like(image, seed % 10 / 10)


class Filled(Dice):
    def fill(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        return torch.full_like(image, seed % 10 / 10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i, corners in enumerate(HOLES):
        size = (150, 170 if len(corners) == 1 else 500)
        picture, hole = photo(*size, i) // 2, np.zeros(size, np.uint8)
        for top, left in corners:
            hole[top : top + 12, left : left + 12] = 255
        if i == 1:
            picture[60] = 255
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "in" / f"p{i}.png")
        Image.fromarray(hole).save(tmp_path / "in" / f"p{i}_mask.png")
    return tmp_path / "in"


def run(
    pictures: Path, weights: Path, guide: Guide, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> tuple[dict[str, str], list[np.ndarray]]:
    """Statuses and results by file, in the order of the names."""
    monkeypatch.setattr(engine, "load_guide", lambda *args, **options: guide)
    out = pictures.parent / f"out{len(list(pictures.parent.iterdir()))}"
    words: dict[str, Any] = {"guide": "dice", "weights": weights, "device": "cpu", "tk": 0}
    entries = engine.inpaint(pictures, output=out, **words, **more)
    statuses = {Path(e["input"]["path"]).stem: e["status"] for e in entries}
    results = [np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))]
    return dict(sorted(statuses.items())), results


def test_windows_of_many_pictures_go_together_and_no_result_changes(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Dice()
    statuses, alone = run(pictures, weights, guide, monkeypatch)
    assert guide.counts == [1] * 5  # nothing waits on a CPU
    assert set(statuses.values()) == {"done"}
    guide = Dice()
    statuses, together = run(pictures, weights, guide, monkeypatch, batch=4)
    assert sum(guide.counts) == 5
    assert max(guide.counts) >= 3
    assert set(statuses.values()) == {"done"}
    for a, b in zip(alone, together, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize("workers", [0, 3])
def test_a_picture_at_fault_fails_alone(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    guide = Dice(bad=float("nan"))
    more = {"batch": 4, "workers": workers}
    statuses, results = run(pictures, weights, guide, monkeypatch, **more)
    assert statuses == {"p0": "done", "p1": "failed", "p2": "done", "p3": "done"}
    assert len(results) == 3


@pytest.mark.parametrize(("room", "status"), [(1, "done"), (0, "failed")])
def test_running_out_of_memory_halves_the_batch(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, room: int, status: str
) -> None:
    guide = Dice(room)
    statuses, _ = run(pictures, weights, guide, monkeypatch, batch=4)
    assert set(statuses.values()) == {status}
    assert max(guide.counts) >= 3
    if room:
        assert guide.counts.count(1) == 5


def test_few_pictures_wait_at_a_time(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "MAX_WAITING", 2)
    guide = Dice()
    statuses, _ = run(pictures, weights, guide, monkeypatch, batch=100)
    assert set(statuses.values()) == {"done"}
    assert guide.counts[0] == 2


def test_a_run_that_is_stopped_fills_no_more(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Dice()
    statuses, _ = run(pictures, weights, guide, monkeypatch, stop=lambda: bool(guide.counts))
    assert guide.counts == [1]
    assert statuses == {"p0": "done"}


def test_guides_that_know_one_seed_go_on_working(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, hole = torch.zeros(3, 3, 16, 16), torch.ones(3, 1, 16, 16)
    old = OneByOne()
    for guide in (old, Changed(), Filled()):
        assert not guide.batches
        out = guide(image, hole, seed=[1, 2, 3])
        assert out[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert old.seen == [(1, 1), (1, 2), (1, 3)]
    statuses, _ = run(pictures, weights, old, monkeypatch, batch=4)
    assert set(statuses.values()) == {"done"}
    assert all(count == 1 for count, _ in old.seen)


def test_a_guide_needs_one_of_two_methods_and_a_picture_one_seed() -> None:
    class Neither(NetworkGuide):
        pass

    with pytest.raises(TypeError, match="Neither has neither"):
        Neither()
    with pytest.raises(UsageError, match="2 seeds do not fit 1 images"):
        Dice()(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8), seed=[1, 2])
