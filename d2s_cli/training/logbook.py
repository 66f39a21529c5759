"""What a run tells: log.jsonl, and TensorBoard's files where that package is installed."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

LOG = "log.jsonl"
BOARD = "tensorboard"
log = logging.getLogger(__name__)


class Logbook:
    """The record of a run, continued where its checkpoint stands.

    An interrupted run may have logged steps that its checkpoint does not hold; they are done again,
    so their lines are taken out.

    Args:
        output: of the run; log.jsonl and tensorboard/ go there.
        images: that the run has seen.
    """

    def __init__(self, output: Path, images: int) -> None:
        self._path = output / LOG
        self._told = False
        output.mkdir(parents=True, exist_ok=True)
        self._keep_until(images)
        self._board = _board(output / BOARD, images)

    def _keep_until(self, images: int) -> None:
        if not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _images_of(line) <= images]
        if len(kept) < len(lines):
            self._path.write_text("".join(kept), encoding="utf-8")

    def write(self, images: int, entry: dict[str, Any]) -> None:
        """Add a line; its numbers, nested ones too, also go to TensorBoard.

        A full disk ends no run: it is said once.
        """
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"images": images} | entry) + "\n")
            if self._board is not None:
                for name, number in _numbers(entry):
                    self._board.add_scalar(name, number, images)
                self._board.flush()
        except OSError as error:
            if not self._told:
                log.warning("cannot write %s: %s; training goes on", self._path, error)
            self._told = True

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def _images_of(line: str) -> float:
    try:
        return float(json.loads(line)["images"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _numbers(entry: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in entry.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found


def _board(folder: Path, images: int) -> Any:
    """TensorBoard's writer, None without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=images + 1)
