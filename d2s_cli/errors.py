"""The errors that users meet: each says what is wrong, where, and what to type next.

The library raises these and never prints or exits; the command line turns them into one screen of
text and the exit code.
"""

from __future__ import annotations


class D2SError(Exception):
    """Base class: something the user can act on.

    Args:
        message: what is wrong and where, one line.
        hint: what to do next (commands to type), shown on lines of its own.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(D2SError):
    """Options that contradict each other or have impossible values."""

    exit_code = 2


class InputError(D2SError):
    """Pictures, masks or guide results that cannot be used."""

    exit_code = 4


class WeightsError(D2SError):
    """Weights or a guide that are missing, damaged, or do not fit."""

    exit_code = 5


class GuideError(InputError):
    """A guide that failed on one picture; it may do the others."""

    exit_code = WeightsError.exit_code


class DeviceError(D2SError):
    """A device that is absent, or out of memory at the smallest setting."""

    exit_code = 6


#: exit code when a run ended but some images failed
SOME_FAILED = 3
#: exit code when a check that was asked for failed
CHECK_FAILED = 7
