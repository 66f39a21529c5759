"""Read and write weights files without running code from them.

Checkpoints are untrusted input. safetensors files hold nothing but numbers; `.pth` and `.pt` files
are pickles and go through torch's restricted reader, which knows tensors and plain containers only.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from d2s_cli.errors import WeightsError

HEADER_KEY = "d2s"


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of a weights file.

    Args:
        path: a `.safetensors`, or a PyTorch checkpoint (`.pth`, `.pt`, `.ckpt`).

    Returns:
        The tensors by key, on the CPU, and the JSON found in a safetensors header under "d2s"
        (empty for other files).

    Raises:
        WeightsError: missing, truncated, or asking to run code.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}", "try: d2s inpaint --help, under --weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY, "{}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(header)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"{path} is damaged or no safetensors file: {error}", "fetch or copy the file again"
        ) from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path} has a header that d2s cannot read")
    return tensors, config


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} wants to run code when loaded, or is no checkpoint; d2s did not load it",
            f"reader's words: {reason}\nask for a file with tensors only, or a .safetensors file",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged or no PyTorch checkpoint: {str(error).partition(chr(10))[0]}",
            "fetch or copy the file again",
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a table of tensors")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors at its top level")
    return tensors


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write tensors as `dtype` with `config` as JSON in the header; the name appears when whole."""
    partial = path.with_name(path.name + ".part")
    try:
        save_file(
            {k: v.detach().to(dtype).contiguous().cpu() for k, v in tensors.items()},
            partial,
            metadata={HEADER_KEY: json.dumps(config)},
        )
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # the library makes files that only their owner can read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
