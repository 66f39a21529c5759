"""Any program as a guide: `cmd:PROGRAM {image} {mask} {output}`, through PNG files.

No shell reads the command, so that quotes, spaces and semicolons in a path mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import InputError, UsageError, WeightsError
from d2s_cli.guides.contract import PictureGuide
from d2s_cli.images.drawings import write_drawing
from d2s_cli.images.reading import read_photo

KIND = "cmd"
#: seconds that one picture may take
TIMEOUT = 600.0
#: what may stand in a command, and whether it must
PLACEHOLDERS = {"image": True, "mask": True, "output": True, "seed": False}
#: of what a failing program wrote to stderr, this much is shown
SHOWN_LINES, SHOWN_BYTES = 10, 4000


class CommandGuide(PictureGuide):
    """A program that reads two PNG files and writes one.

    Args:
        command: as typed after "cmd:", with PLACEHOLDERS.
        timeout: seconds for one picture.
    """

    def __init__(self, command: str, timeout: float = TIMEOUT) -> None:
        super().__init__(f"{KIND}:{command}", self._fill_by_program)
        self.words, self.timeout = _split(command), timeout
        if shutil.which(self.words[0]) is None:
            raise WeightsError(
                f"guide {self.name}: there is no program {self.words[0]!r} that can be run",
                "give its whole path, or check that it is executable",
            )

    def _fill_by_program(
        self, picture: NDArray[Any], hole: NDArray[np.bool_], seed: int
    ) -> NDArray[Any]:
        with tempfile.TemporaryDirectory(prefix="d2s-") as name:
            folder = Path(name)
            files = {key: folder / f"{key}.png" for key in ("image", "mask", "output")}
            write_drawing(picture, files["image"])
            write_drawing(hole.astype(np.uint8) * 255, files["mask"])
            values = {key: str(path) for key, path in files.items()} | {"seed": str(seed)}
            words = [_PLACEHOLDER.sub(lambda m: values[m[1]], word) for word in self.words]
            self._run(words, folder / "stderr.txt")
            return self._read(files["output"], hole.shape)

    def _run(self, words: list[str], log: Path) -> None:
        """Run the program and wait for it.

        Raises:
            WeightsError: it does not start, takes too long, or ends with another code than 0.
        """
        with open(log, "wb") as stderr, contextlib.ExitStack() as stack:
            try:
                # a session of its own, so that Ctrl-C lets the picture at hand be finished, and
                # that whatever the program starts ends with it
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,
                )
            except OSError as error:
                raise WeightsError(f"guide {self.name} does not start: {error}") from error
            stack.callback(_end, process)
            try:
                code = process.wait(self.timeout)
            except subprocess.TimeoutExpired as error:
                raise WeightsError(
                    f"guide {self.name} took longer than {self.timeout:g} s",
                    "\n".join(
                        [*_last_lines(log), "give it more time: --guide-option timeout=SECONDS"]
                    ),
                ) from error
        if code != 0:
            how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
            said = _last_lines(log) or ["it wrote nothing to stderr"]
            # a run of many pictures shows no hints: the last line names the reason, as a rule
            raise WeightsError(f"guide {self.name} {how}: {said[-1].strip()}", "\n".join(said))

    def _read(self, path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
        if not path.is_file():
            raise WeightsError(
                f"guide {self.name} ended well, but wrote no {{output}}",
                "it has to write a picture to exactly the path that stands for {output}",
            )
        try:
            filled = read_photo(path).rgb
        except InputError as error:
            raise WeightsError(
                f"guide {self.name} wrote no picture that can be read", error.message
            ) from error
        if filled.shape[:2] != shape:
            raise WeightsError(
                f"guide {self.name} wrote {filled.shape[1]}x{filled.shape[0]} pixels for a"
                f" picture of {shape[1]}x{shape[0]}"
            )
        return filled if filled.dtype == np.uint8 else cv2.convertScaleAbs(filled, alpha=1 / 257)


def load(command: str, device: str, timeout: float = TIMEOUT) -> CommandGuide:
    """Load `cmd:COMMAND`.

    Args:
        command: program and arguments.
        device: not used; the program picks its own.
        timeout: seconds for one picture.

    Raises:
        UsageError: the command makes no sense.
        WeightsError: there is no such program.
    """
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout <= 0:
        raise UsageError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    return CommandGuide(command, timeout)


_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _split(command: str) -> list[str]:
    """Words of a command; raises UsageError where placeholders or quotes do not fit."""
    example = f'for example: --guide {KIND}:"mytool --in {{image}} --mask {{mask}} -o {{output}}"'
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"guide {KIND}:{command}: {error}", example) from error
    found = {name for word in words[1:] for name in _PLACEHOLDER.findall(word)}
    if unknown := sorted(found - PLACEHOLDERS.keys()):
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise UsageError(f"guide {KIND}:{command}: nothing stands for {{{unknown[0]}}}", known)
    needed = [name for name, must in PLACEHOLDERS.items() if must and name not in found]
    if needed:
        missing = ", ".join(f"{{{name}}}" for name in needed)
        raise UsageError(f"guide {KIND}:{command} lacks {missing}", example)
    return words


def _last_lines(log: Path) -> list[str]:
    text = log.read_bytes()[-SHOWN_BYTES:].decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()][-SHOWN_LINES:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program, and what it started, if it still runs."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
