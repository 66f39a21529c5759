"""Checkpoints of training runs: whole or not there at all, and read without running code."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from d2s_cli.errors import InputError, UsageError, WeightsError

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(output: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; the old one stays until the new one is whole and on the disk.

    Raises:
        InputError: it cannot be written.
    """
    partial = output / (CHECKPOINT + ".part")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, output / CHECKPOINT)
    except (OSError, RuntimeError) as error:  # torch's writer has an error of its own
        raise cannot_write(error) from error
    finally:
        partial.unlink(missing_ok=True)


def cannot_write(error: Exception) -> InputError:
    """The error of a run whose files cannot be written."""
    reason = str(error).partition("\n")[0]
    return InputError(
        f"the checkpoint, the export or the samples cannot be written: {reason}",
        "the ones before are whole; make room on the disk, and run the same command again",
    )


def load_checkpoint(output: Path, network: object) -> dict[str, Any] | None:
    """The checkpoint of an earlier run into this folder, if there is one.

    Args:
        network: configuration (a dataclass) of the network; the checkpoint's must be the same.

    Raises:
        UsageError: it was made with another network.
        WeightsError: it is damaged.
    """
    path = output / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(state["network"])
    except (RuntimeError, OSError, EOFError, UnpicklingError, LookupError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is damaged or no checkpoint of d2s: {reason}",
            "begin in another folder, with --init and the refiner.safetensors beside it",
        ) from error
    if saved != json.loads(describe(network)):
        raise UsageError(
            f"{path} was made with another network: {saved}",
            "train with the same options, or into another folder: --output NEW",
        )
    return state


def describe(config: object) -> str:
    """A dataclass as JSON."""
    return json.dumps(dataclasses.asdict(config))  # type: ignore[call-overload]
