"""Ctrl-C and SIGTERM: the first finishes what is under way, the second leaves at once."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

from d2s_cli.cli.console import say

#: exit codes by signal, as shells give them
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interrupts:
    """While active, holds back signals; `stopped` says whether one came.

    Outside the main thread signals cannot be caught, and nothing is changed.

    Args:
        under_way: what is finished first ("this picture"), for the message.
    """

    def __init__(self, under_way: str = "this picture") -> None:
        self.under_way = under_way
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        try:
            for number in EXIT_CODES:
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            say("stopped; finished files are whole")
            sys.exit(EXIT_CODES[signal.Signals(number)])
        self.received = signal.Signals(number)
        say(f"stopping after {self.under_way}; once more to stop now")

    def stopped(self) -> bool:
        return self.received is not None

    def exit_code(self) -> int:
        """0 if no signal came."""
        return EXIT_CODES[self.received] if self.received else 0
