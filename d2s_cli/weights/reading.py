"""Read and write weights files without running code from them.

Checkpoints are untrusted input. safetensors files hold nothing but numbers; `.pth` and `.pt` files
are pickles, which `pickles.py` reads for their tensors alone. Which of them a file is, its first
bytes say, not its name.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from d2s_cli.errors import WeightsError
from d2s_cli.weights.containers import checkpoints_in, is_container
from d2s_cli.weights.pickles import HostilePickleError, MalformedPickleError, read_pickle

HEADER_KEY = "d2s"
#: header of a safetensors file: a hundred bytes for each tensor
MAX_HEADER = 16_000_000
#: Networks are built to the numbers in tensors' names; a file names no more parts than it could
#: hold, counting those without tensors of their own.
MAX_INDEX_PER_TENSOR = 16


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of a weights file.

    Args:
        path: a `.safetensors`, or a PyTorch checkpoint (`.pth`, `.pt`, `.ckpt`, `.pkl`).

    Returns:
        The tensors by their dotted path in the file (below "state_dict" where there is one), on
        the CPU, and the JSON found in a safetensors header under "d2s" (empty for other files).

    Raises:
        WeightsError: missing, damaged, hostile, or without tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}", "try: d2s inpaint --help, under --weights")
    if is_container(path):
        held = checkpoints_in(path)
        raise WeightsError(
            f"{path} is a zip file with {', '.join(held[:4])} in it, not a checkpoint",
            f"try: d2s weights import {path}",
        )
    if is_safetensors(path):
        tensors, config = _read_safetensors(path)
    else:
        tensors, config = _read_pickle(path), {}
    _check_names(path, tensors)
    return tensors, config


def is_safetensors(path: Path) -> bool:
    """By the name, or by the first bytes: the header's length, and the header's first character."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (
        start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= path.stat().st_size
    )


def _read_safetensors(
    path: Path, header_key: str = HEADER_KEY
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        config = json.loads(metadata.get(header_key, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is damaged or no safetensors file: {error}", "fetch or copy the file again"
        ) from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path} has a header that d2s cannot read")
    return tensors, config


def _check_names(path: Path, tensors: Mapping[str, Tensor]) -> None:
    largest = MAX_INDEX_PER_TENSOR * (len(tensors) + 16)
    for name in tensors:
        for part in name.split("."):
            if part.isdecimal() and (len(part) > 9 or int(part) > largest):
                raise WeightsError(
                    f"{path} numbers its parts up to {part[:20]} with {len(tensors)} tensors",
                    "fetch or copy the file again",
                )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        found = read_pickle(path)
    except HostilePickleError as error:
        raise WeightsError(
            f"{path} asks to run code when loaded ({error}); d2s did not run it",
            "do not trust this file; ask for one with tensors only, or a .safetensors file",
        ) from error
    except MemoryError as error:
        raise WeightsError(f"{path} claims more than fits into memory") from error
    except (MalformedPickleError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is damaged or no PyTorch checkpoint: {reason}", "fetch or copy the file again"
        ) from error
    if not found:
        raise WeightsError(f"{path} holds no tensors")
    whole = "state_dict."
    if any(key.startswith(whole) for key in found):
        return {k.removeprefix(whole): v for k, v in found.items() if k.startswith(whole)}
    return found


def check_fit(
    path: Path, expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
) -> None:
    """Raise WeightsError that lists missing, unexpected and differently shaped tensors."""
    problems = [f"missing: {key} {list(expected[key])}" for key in expected if key not in state]
    problems += [f"unexpected: {key} {list(state[key].shape)}" for key in state.keys() - expected]
    problems += [
        f"shape: {key} is {list(state[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if problems:
        shown = sorted(problems)[:12]
        rest = [f"and {len(problems) - 12} more"] if len(problems) > 12 else []
        raise WeightsError(
            f"{path} does not fit: {len(problems)} tensors differ", "\n".join(shown + rest)
        )


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: dict[str, Any],
    dtype: torch.dtype | None = torch.float32,
    key: str = HEADER_KEY,
) -> None:
    """Write tensors with `config` as JSON in the header; the name appears when whole.

    Args:
        dtype: of the written tensors; None keeps each one's own.
        key: of the header that `config` goes to. Only HEADER_KEY's is `read_weights`' to give.
    """
    partial = path.with_name(path.name + ".part")
    try:
        save_file(
            # copies, since tensors may share memory, which the format has no words for
            {k: v.detach().to("cpu", dtype, copy=True).contiguous() for k, v in tensors.items()},
            partial,
            metadata={key: json.dumps(config)},
        )
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # the library makes files that only their owner can read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_header(path: Path, key: str = HEADER_KEY) -> dict[str, Any]:
    """JSON under a key of a safetensors header; empty if there is none, or for other files.

    Raises:
        WeightsError: damaged.
    """
    return _read_safetensors(path, key)[1] if is_safetensors(path) else {}
