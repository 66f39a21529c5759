"""How long a guide says that it will take."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from guide_checks import scene
from test_guide_ddnm import checkpoint
from test_guide_m2s import COARSE, FINE, SHORT, tiny
from test_guide_palette import published

import d2s_cli as d2s
from d2s_cli.guides.pace import Pace


def said(calls: int, seconds: float, first: float = 0.0) -> list[str]:
    """What is told while `calls` network calls take `seconds` each, the first one longer."""
    now, lines = 0.0, []
    pace = Pace(lines.append, "guide x", calls, clock=lambda: now)
    for call in range(calls):
        now += seconds + (first if call == 0 else 0.0)
        pace.step()
    return lines


def test_long_work_is_announced_and_then_reported_each_minute() -> None:
    lines = said(300, 1.0)
    assert lines[0] == "guide x: 4 of 300 network calls, about 5 min left"
    assert lines[1] == "guide x: 64 of 300 network calls, about 4 min left"
    assert len(lines) == 5


def test_a_slow_first_call_does_not_count() -> None:
    assert said(300, 1.0, first=100.0)[0] == "guide x: 4 of 300 network calls, about 5 min left"


def test_short_work_is_not_worth_a_word() -> None:
    assert said(100, 0.1) == []


def pair(folder: Path) -> Path:
    tiny(folder / "a64.pt", COARSE)
    tiny(folder / "a256.pt", FINE)
    return folder


@pytest.mark.parametrize(
    ("name", "write", "options", "calls"),
    [
        ("ddnm", checkpoint, {"steps": 4, "travel_repeat": 2}, [7]),
        ("m2s", pair, SHORT, [5, 3]),
        ("palette", lambda folder: published(folder / "a.pth"), {"table_steps": 5}, [5]),
        ("palette", lambda folder: published(folder / "a.pth"), {"steps": 3}, [3]),
    ],
)
def test_guides_count_every_call_of_their_networks(
    name: str,
    write: Callable[[Path], Path],
    options: dict[str, int],
    calls: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paces: list[Pace] = []

    class Kept(Pace):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            paces.append(self)

    monkeypatch.setattr(f"d2s_cli.guides.{name}.Pace", Kept)
    # random weights may fill with anything
    monkeypatch.setattr("d2s_cli.guides.contract.FAR", math.inf)
    guide = d2s.load_guide(name, write(tmp_path), **options)
    guide(*scene(8, 8))
    assert all(f"{count} network calls" in guide.notes[-1] for count in calls)
    assert [pace.calls for pace in paces] == calls
    assert [pace.done for pace in paces] == calls
