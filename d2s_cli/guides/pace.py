"""How long a guide will take that calls its network many times."""

from __future__ import annotations

import time
from collections.abc import Callable

#: calls that are timed before the first estimate; the very first one is slow everywhere
TIMED = 3
#: seconds: shorter work is not worth a word, and how often longer work says where it is
WORTH_SAYING = 20.0
SAY_EVERY = 60.0


class Pace:
    """Counts network calls and says now and then how long the rest will take.

    Args:
        tell: given one line for people.
        what: what is under way, for the line.
        calls: how many there will be.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        what: str,
        calls: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tell, self.what, self.calls, self.clock = tell, what, calls, clock
        self.done = 0
        self.began = self.said = clock()

    def step(self) -> None:
        """After each network call."""
        self.done += 1
        now = self.clock()
        if self.done == 1:
            self.began = self.said = now
            return
        left = (now - self.began) / (self.done - 1) * (self.calls - self.done)
        due = self.done == TIMED + 1 or now - self.said >= SAY_EVERY
        if due and left >= WORTH_SAYING:
            self.said = now
            self.tell(
                f"{self.what}: {self.done} of {self.calls} network calls, {_about(left)} left"
            )


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
