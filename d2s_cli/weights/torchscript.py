"""Read the numbers of a TorchScript file without running the code that it holds.

Such a file is a zip with a pickle of nested modules and the tensors' bytes beside it. The pickle is
read with modules as plain records; any other name in it is refused.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2s_cli.errors import WeightsError


class _Record:
    """What stands for a module of the file: its attributes."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def is_torchscript(path: Path) -> bool:
    """True for a zip that holds TorchScript code; False too if there is no such file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any("/code/" in name for name in file.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors by their dotted names; none of the file's code is run.

    Raises:
        WeightsError: damaged, or a pickle with more in it than modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as file:
            (name,) = [n for n in file.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
            with file.open(name) as data:
                loaded = _Reader(data, file, name.removesuffix(".pkl")).load()
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} wants to run code when loaded; d2s did not load it",
            f"reader's words: {error}",
        ) from error
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is damaged or of an unknown TorchScript format: {error}",
            "fetch or copy the file again",
        ) from error
    tensors: dict[str, Tensor] = {}
    _collect(loaded, "", tensors)
    return tensors


def _collect(value: Any, name: str, tensors: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        tensors[name] = value
    elif isinstance(value, _Record):
        for key, inner in vars(value).items():
            _collect(inner, f"{name}.{key}" if name else key, tensors)


class _Reader(pickle.Unpickler):
    """Knows modules, tensors and ordered tables, and nothing else."""

    def __init__(self, data: Any, file: zipfile.ZipFile, folder: str) -> None:
        super().__init__(data)
        self._file, self._folder = file, folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Record
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no tensor and no module")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        data = bytearray(self._file.read(f"{self._folder}/{key}"))
        if not data:
            return torch.zeros(0, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype)[:count]


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()
