"""Work done ahead in background threads: the device need not wait for disks and decoders."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What came of one item: a result, or the error that the work raised."""

    item: Item
    result: Result | None
    error: BaseException | None

    def get(self) -> Result:
        """The result; raises the work's error."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class Ahead(Generic[Item, Result]):
    """Outcomes of `work(item)` in the items' order, computed up to `ahead` items before they are
    asked for.

    Threads are daemons: a program that is told to leave at once does not wait for them.

    Args:
        work: called in a background thread; must not return None.
        items: what to work on.
        threads: how many work at a time; 0 works when asked, in the caller's thread.
        ahead: outcomes, being made or waiting, that exist at a time.
    """

    def __init__(
        self, work: Callable[[Item], Result], items: Sequence[Item], threads: int, ahead: int
    ) -> None:
        self.work, self.items = work, items
        self.threads, self.ahead = threads, max(ahead, threads)
        self._ready: dict[int, Outcome[Item, Result]] = {}
        self._next, self._taken, self._closed = 0, 0, False
        self._changed = threading.Condition()

    def __iter__(self) -> Generator[Outcome[Item, Result], None, None]:
        if self.threads == 0:
            yield from (outcome_of(self.work, item) for item in self.items)
            return
        for _ in range(min(self.threads, len(self.items))):
            threading.Thread(target=self._run, daemon=True).start()
        try:
            for number in range(len(self.items)):
                with self._changed:
                    self._changed.wait_for(lambda n=number: n in self._ready)  # type: ignore[misc]
                    outcome = self._ready.pop(number)
                    self._taken += 1
                    self._changed.notify_all()
                yield outcome
        finally:
            self.close()

    def close(self) -> None:
        """Begin no more items; what is under way is finished and forgotten."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_begin)
                if self._closed or self._next >= len(self.items):
                    return
                number = self._next
                self._next += 1
            outcome = outcome_of(self.work, self.items[number])
            with self._changed:
                self._ready[number] = outcome
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        done = self._closed or self._next >= len(self.items)
        return done or self._next - self._taken < self.ahead


class Behind(Generic[Item, Result]):
    """Does `work(item)` in a background thread, in order, while the caller goes on.

    Args:
        work: called in the thread; must not return None.
        threads: 1, or 0 to work in the caller's thread.
        waiting: items, under way or not yet begun, at a time; `add` waits for a place.
    """

    def __init__(self, work: Callable[[Item], Result], threads: int, waiting: int) -> None:
        self.work, self.threads, self.waiting = work, threads, waiting
        self._items: deque[Item] = deque()
        self._done: deque[Outcome[Item, Result]] = deque()
        self._pending, self._closed = 0, False
        self._changed = threading.Condition()

    def __enter__(self) -> Behind[Item, Result]:
        if self.threads:
            threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def add(self, item: Item) -> list[Outcome[Item, Result]]:
        """Hand an item over; gives what is done by now."""
        if not self.threads:
            return [outcome_of(self.work, item)]
        with self._changed:
            self._changed.wait_for(lambda: self._pending < self.waiting)
            self._items.append(item)
            self._pending += 1
            self._changed.notify_all()
        return self.ready()

    def ready(self) -> list[Outcome[Item, Result]]:
        """What is done and was not given yet, without waiting."""
        with self._changed:
            done = list(self._done)
            self._done.clear()
        return done

    def rest(self) -> list[Outcome[Item, Result]]:
        """Wait for everything; gives what was not given yet."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)
        return self.ready()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._items))
                if self._closed:
                    return
                item = self._items.popleft()
            outcome = outcome_of(self.work, item)
            with self._changed:
                self._done.append(outcome)
                self._pending -= 1
                self._changed.notify_all()


def outcome_of(work: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, work(item), None)
    except Exception as error:  # handed to whoever asks for the result
        return Outcome(item, None, error)
