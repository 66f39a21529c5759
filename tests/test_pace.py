"""How long a guide says that it will take."""

from __future__ import annotations

from d2s_cli.guides.pace import Pace


def said(calls: int, seconds: float, first: float = 0.0) -> list[str]:
    """What is told while `calls` network calls take `seconds` each, the first one longer."""
    now, lines = 0.0, []
    pace = Pace(lines.append, "guide x", calls, clock=lambda: now)
    for call in range(calls):
        with pace.call():
            now += seconds + (first if call == 0 else 0.0)
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
