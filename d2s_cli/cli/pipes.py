"""`-` as input and output: one picture through a pipe, by way of temporary files."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from d2s_cli.errors import InputError, UsageError

DASH = Path("-")


class Pipes:
    """Replaces `-` by files while active; at a clean end the result goes to stdout.

    Args:
        inputs: as typed.
        output: as typed.

    Attributes:
        inputs, output: what to work with instead.
    """

    def __init__(self, inputs: list[Path], output: Path | None) -> None:
        self.inputs, self.output = list(inputs), output
        self.to_stdout = output == DASH
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if DASH in inputs and len(inputs) > 1:
            raise UsageError("- reads one picture from stdin; give no other input with it")
        if self.to_stdout and (len(inputs) > 1 or inputs[0].is_dir()):
            raise UsageError("-o - writes one picture; give one input")
        if DASH in inputs and output is None:
            self.output, self.to_stdout = DASH, True
        if self.to_stdout and sys.stdout.isatty():
            raise UsageError("not writing picture data to a terminal", "try: -o FILE, or a pipe")

    def __enter__(self) -> Pipes:
        if DASH not in self.inputs and not self.to_stdout:
            return self
        self._folder = tempfile.TemporaryDirectory(prefix="d2s-")
        folder = Path(self._folder.name)
        if DASH in self.inputs:
            self.inputs = [_save_stdin(folder)]
        if self.to_stdout:
            self.output = folder / "out"  # a folder, so that --format decides on the ending
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._folder is None:
            return
        try:
            if kind is None and self.to_stdout and self.output and self.output.is_dir():
                for path in self.output.iterdir():
                    with open(path, "rb") as file:
                        shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
        finally:
            self._folder.cleanup()


def _save_stdin(folder: Path) -> Path:
    from PIL import Image

    from d2s_cli.images.formats import FORMATS
    from d2s_cli.images.reading import READ_ERRORS

    data = sys.stdin.buffer.read()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            name = {"MPO": "JPEG"}.get(picture.format or "", picture.format or "PNG")
    except READ_ERRORS as error:
        raise InputError(
            f"stdin holds no picture that can be read ({len(data)} bytes)",
            "look whether what writes into the pipe worked",
        ) from error
    suffix = next((s for s, format in FORMATS.items() if format == name), f".{name.lower()}")
    path = folder / f"stdin{suffix}"
    path.write_bytes(data)
    return path
