"""Work done ahead: order, bounds, errors, stopping."""

from __future__ import annotations

import threading
import time
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2s_cli.ahead import Ahead, Behind


@given(st.lists(st.integers(), max_size=30), st.integers(0, 4), st.integers(1, 6))
def test_outcomes_come_in_order(items: list[int], threads: int, ahead: int) -> None:
    outcomes = list(Ahead(lambda x: x * 2, items, threads, ahead))
    assert [o.item for o in outcomes] == items
    assert [o.get() for o in outcomes] == [2 * x for x in items]


def test_never_more_than_allowed_lies_ready_or_is_made() -> None:
    begun: list[int] = []
    taken = 0
    most = 0

    def work(x: int) -> int:
        nonlocal most
        begun.append(x)
        most = max(most, len(begun) - taken)
        return x

    for _ in Ahead(work, range(40), threads=3, ahead=5):
        time.sleep(0.001)
        taken += 1
    assert 3 <= most <= 6  # one is in the caller's hands


def test_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)
    outcomes = list(Ahead(lambda x: (both.wait(), x)[1], [1, 2], threads=2, ahead=2))
    assert [o.get() for o in outcomes] == [1, 2]


def test_an_error_is_raised_where_its_result_is_asked_for_and_the_rest_goes_on() -> None:
    def work(x: int) -> float:
        return 1 / x

    outcomes = list(Ahead(work, [1, 0, 2], threads=2, ahead=3))
    assert [o.error is None for o in outcomes] == [True, False, True]
    assert outcomes[2].get() == 0.5
    with pytest.raises(ZeroDivisionError):
        outcomes[1].get()


def test_nothing_is_begun_after_the_caller_left() -> None:
    begun: list[int] = []
    gone = threading.Event()

    def work(x: int) -> int:
        begun.append(x)
        return x

    stream = iter(Ahead(work, range(1000), threads=2, ahead=4))
    assert [o.get() for o in islice(stream, 3)] == [0, 1, 2]
    stream.close()  # type: ignore[attr-defined]
    count = len(begun)
    gone.wait(0.05)
    assert len(begun) <= count + 2
    assert len(begun) < 20


# behind


@given(st.lists(st.integers(), max_size=20), st.integers(0, 1), st.integers(1, 4))
def test_what_is_handed_over_is_done_in_order(items: list[int], threads: int, waiting: int) -> None:
    told = []
    with Behind(lambda x: -x, threads, waiting) as behind:
        for item in items:
            told += behind.add(item)
            told += behind.ready()
        told += behind.rest()
    assert [o.get() for o in told] == [-x for x in items]


def test_the_caller_waits_when_too_much_is_under_way() -> None:
    go = threading.Event()
    added: list[int] = []

    def hand_over() -> None:
        with Behind(lambda x: (go.wait(10), x)[1], threads=1, waiting=2) as behind:
            for item in range(4):
                behind.add(item)
                added.append(item)
            behind.rest()

    caller = threading.Thread(target=hand_over)
    caller.start()
    time.sleep(0.1)
    assert len(added) == 2
    go.set()
    caller.join(10)
    assert added == [0, 1, 2, 3]


def test_an_error_behind_is_raised_where_its_result_is_asked_for() -> None:
    with Behind(lambda x: 1 / x, threads=1, waiting=1) as behind:
        (outcome,) = [*behind.add(0), *behind.rest()]
    with pytest.raises(ZeroDivisionError):
        outcome.get()
