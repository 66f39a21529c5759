"""Read the tensors of a pickle without running anything that it names.

Files with Lightning's callbacks, OmegaConf settings, live modules with their source code, or
TorchScript archives are read for their numbers, with none of these packages installed and none of
that code run: `pickle_machine.py` builds inert values, and the table at the end of this file is all
that a pickle may call.

Four containers: torch's zip archive (TorchScript's too), torch's older stream, a plain pickle with
torch storages inside, and any of them nested in `_load_from_bytes`.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from d2s_cli.weights.archive import MAGIC, stored_records
from d2s_cli.weights.pickle_machine import (
    Budget,
    HostilePickleError,
    MalformedPickleError,
    Name,
    Stub,
    Table,
    run_pickle,
)

__all__ = ["HostilePickleError", "MalformedPickleError", "flat_tensors", "read_pickle"]

#: dotted names with more parts, or longer, are refused
MAX_DEPTH, MAX_NAME = 64, 1000
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16
#: no count or size in a file is larger
MAX_COUNT = 2**48
#: tensors may share storages, as tied weights do, but not claim more than this many times the file
MAX_SHARING = 4
#: the records of an archive that are read, below its one folder
LOOKED_AT = ("data.pkl", "data/", "byteorder")
#: first words of torch's older stream
STREAM_MAGIC = 0x1950A86A20F9469CFC6C

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
DTYPES = {f"{dtype}": dtype for dtype in STORAGE_DTYPES.values()}


@dataclass(eq=False)
class Storage:
    """A run of numbers in the file; `data` is filled in when it has been found."""

    dtype: torch.dtype
    count: int
    data: memoryview | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is not looked up yet: a view of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """That it takes when written on its own."""
        return prod(self.size) * self.dtype.itemsize

    def load(self) -> Tensor:
        """The tensor, sharing memory with the file where that is possible.

        Raises:
            MalformedPickleError: it reaches outside of its storage, or claims more than is stored.
        """
        data = self.storage.data
        if data is None or len(data) < self.storage.size:
            raise MalformedPickleError("a tensor whose numbers are not in the file")
        stored = self.storage.size // self.dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if not prod(self.size):
            return torch.empty(self.size, dtype=self.dtype)
        if prod(self.size) > stored or self.offset + last >= stored:
            raise MalformedPickleError(f"a tensor of {list(self.size)} in {stored} numbers")
        flat = torch.frombuffer(data, dtype=self.dtype, count=stored)
        if flat.data_ptr() % self.dtype.itemsize:
            flat = torch.frombuffer(bytearray(data), dtype=self.dtype, count=stored)
        return flat.as_strided(self.size, self.stride, self.offset)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Every tensor of a pickled file by its dotted path in the file.

    Dictionaries give their keys, sequences their indices, modules the names of their state dict.

    Raises:
        HostilePickleError: the file names a function that no checkpoint needs; it was not called.
        MalformedPickleError: the file is damaged, or asks for more than a checkpoint may.
    """
    size = path.stat().st_size
    if not size:
        raise MalformedPickleError("the file is empty")
    with path.open("rb") as file:
        buffer = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return flat_tensors(_load(buffer, Budget(MAX_SHARING * size), nesting=0), size)


def flat_tensors(root: object, file_size: int) -> dict[str, Tensor]:
    """The tensors in a tree of inert values, by dotted path, in the order of their names."""
    found: dict[str, StoredTensor] = {}
    allowance = Budget(bytes=MAX_SHARING * file_size)
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], object]] = [((), root)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, StoredTensor):
            name = ".".join(path)
            if len(name) > MAX_NAME or len(found) > MAX_TENSORS:
                raise MalformedPickleError("names too long, or too many tensors")
            allowance.spend(item.bytes)
            found[name] = item
            continue
        # containers may be shared or contain themselves: each is opened once
        if id(item) in seen or not isinstance(item, Stub | Table | list | tuple):
            continue
        if len(path) > MAX_DEPTH:
            raise MalformedPickleError(f"containers nested deeper than {MAX_DEPTH}")
        seen.add(id(item))
        children = [((*path, name) if name else path, child) for name, child in _children(item)]
        waiting += reversed(children)  # so that the first of two of the same name is met first
    return {name: found[name].load() for name in sorted(found)}


def _children(item: Stub | Table | list[Any] | tuple[Any, ...]) -> Iterator[tuple[str, object]]:
    if isinstance(item, Stub):
        yield "", item.state
        yield "", item.items
    elif not isinstance(item, Table):
        yield from ((str(i), value) for i, value in enumerate(item))
    elif item.get("_parameters") is not None and item.get("_modules") is not None:
        # a module's tables hold its members; what else it remembers is no part of its state dict
        yield from (("", item.get(table)) for table in ("_parameters", "_buffers", "_modules"))
    else:
        yield from ((_key(key), value) for key, value in item.entries)


def _key(key: object) -> str:
    """A dictionary's key as part of a name."""
    if isinstance(key, Name):
        return key.origin
    if isinstance(key, str | bool) or (isinstance(key, int) and abs(key) < MAX_COUNT):
        return str(key)
    return "?"


class _View:
    """A file to read from, over a buffer, without a copy of it."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.place = 0

    def tell(self) -> int:
        return self.place

    def read(self, count: int = -1) -> bytes:
        end = len(self.buffer) if count < 0 else min(self.place + count, len(self.buffer))
        data = bytes(self.buffer[self.place : end])
        self.place = end
        return data

    def readline(self) -> bytes:
        step, line = 256, b""
        while b"\n" not in line and (more := bytes(self.buffer[self.place :][:step])):
            self.place += len(more)
            line += more
            step *= 2
        kept, newline, rest = line.partition(b"\n")
        self.place -= len(rest)
        return kept + newline


def _load(buffer: memoryview, budget: Budget, nesting: int) -> object:
    if nesting > 2:
        raise MalformedPickleError("pickles inside pickles inside pickles")
    if bytes(buffer[:4]) == MAGIC:
        return _load_archive(buffer, budget, nesting)
    stream, storages = _View(buffer), Storages()
    first = _run(stream, storages, budget, nesting)
    if first == STREAM_MAGIC and isinstance(first, int):
        return _load_stream(buffer, stream, storages, budget, nesting)
    return first


def _run(stream: _View, storages: Storages, budget: Budget, nesting: int) -> object:
    functions = FUNCTIONS | {
        "_codecs.encode": partial(_bytes_from_text, budget),
        "collections.OrderedDict": partial(_ordered, budget),
        "torch.storage._load_from_bytes": partial(_nested, budget, nesting),
    }
    return run_pickle(cast(IO[bytes], stream), functions, storages, budget)


def _load_archive(buffer: memoryview, budget: Budget, nesting: int) -> object:
    """torch's zip archive: one pickle, and each storage as a record of its own."""
    # TorchScript's code and debug records are not looked at
    records = stored_records(buffer, lambda name: name.partition("/")[2].startswith(LOOKED_AT))
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise MalformedPickleError("a zip file, but no PyTorch archive")
    folder = pickles[0].removesuffix("data.pkl")
    if (order := records.get(folder + "byteorder")) is not None and bytes(order) != b"little":
        raise MalformedPickleError("numbers in big-endian order")
    storages = Storages(lambda key: records.get(f"{folder}data/{key}"))
    return _run(_View(records[pickles[0]]), storages, budget, nesting)


def _load_stream(
    buffer: memoryview, stream: _View, storages: Storages, budget: Budget, nesting: int
) -> object:
    """torch's older container: magic, version, machine, object, storage keys, storages."""
    for _ in range(2):
        _run(stream, Storages(), budget, nesting)
    root = _run(stream, storages, budget, nesting)
    keys = _run(stream, Storages(), budget, nesting)
    if not isinstance(keys, list):
        raise MalformedPickleError("no list of storages")
    position = stream.tell()
    for key in keys:
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        if storage is None or storage.data is not None:
            raise MalformedPickleError("storages that nothing uses, or twice the same")
        start = position + 8
        end = start + storage.size
        if len(buffer) < end or struct.unpack("<q", buffer[position:start])[0] != storage.count:
            raise MalformedPickleError("storages are cut off")
        # torch.frombuffer wants numbers at multiples of their size
        storage.data = memoryview(bytearray(buffer[start:end]))
        position = end
    return root


@dataclass
class Storages:
    """The storages that one pickle refers to."""

    find: Callable[[str], memoryview | None] = lambda key: None
    by_key: dict[str, Storage] = field(default_factory=dict)

    def __call__(self, reference: object) -> Storage | Name:
        """From ("storage", type, key, device, count[, view of it]), or ("module", class, file,
        source), which stands for the class."""
        match reference:
            case ("module", Name() as kind, *_):
                return kind
            case ("storage", Name(origin), str() as key, _, int() as count, *view):
                dtype = STORAGE_DTYPES.get(origin.rpartition(".")[2])
                if dtype is None or not 0 <= count < MAX_COUNT:
                    raise MalformedPickleError(f"a storage of kind {origin}")
                if view not in ([], [None]):
                    raise MalformedPickleError("a storage that is a part of another")
                known = self.by_key.setdefault(key, Storage(dtype, count, self.find(key)))
                if (known.dtype, known.count) != (dtype, count):
                    raise MalformedPickleError("a storage that is described in two ways")
                return known
        raise MalformedPickleError("a reference to what is no storage")


def _whole_numbers(values: object) -> tuple[int, ...]:
    """Sizes or strides, checked before anything is computed from them."""
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise MalformedPickleError("a tensor without a size or stride")
    if not all(isinstance(n, int) and 0 <= n < MAX_COUNT for n in values):
        raise MalformedPickleError("a tensor of a negative or impossible size")
    return tuple(values)


def _tensor(
    storage: object, offset: object, size: object, stride: object, *rest: object
) -> StoredTensor:
    """torch._utils._rebuild_tensor_v2 and its kin; of `rest`, only a number format matters."""
    if not isinstance(storage, Storage):
        raise MalformedPickleError("a tensor without a storage")
    (start,), sizes, strides = map(_whole_numbers, ([offset], size, stride))
    if len(sizes) != len(strides):
        raise MalformedPickleError("a tensor whose size and stride do not match")
    named = [item.origin for item in rest if isinstance(item, Name) and item.origin in DTYPES]
    dtype = DTYPES[named[0]] if named else storage.dtype
    return StoredTensor(storage, start, sizes, strides, dtype)


def _typed_tensor(kind: object, _: object, arguments: object, *rest: object) -> object:
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes, which are dropped."""
    if not isinstance(kind, Name) or not kind.origin.startswith("torch._utils._rebuild_"):
        raise MalformedPickleError("a tensor of an unknown class")
    if not isinstance(arguments, tuple) or kind.origin not in FUNCTIONS:
        raise MalformedPickleError("a tensor of an unknown class")
    return FUNCTIONS[kind.origin](*arguments)


def _persistent_object(meta: object, *_: object) -> Stub:
    """An object that carries its own source code: its state, without the code."""
    return Stub("object", state=meta.get("state") if isinstance(meta, Table) else None)


def _ordered(budget: Budget, pairs: object = ()) -> Table:
    """An OrderedDict, empty or of a list of pairs."""
    if not isinstance(pairs, list | tuple):
        raise MalformedPickleError("a dictionary of what is no list")
    budget.instructions -= len(pairs)  # as if each had been put into it
    return Table([(key, value) for key, value in pairs])


def _bytes_from_text(budget: Budget, text: object, encoding: object = "latin1") -> bytes:
    """How old protocols write bytes (_codecs.encode)."""
    if not isinstance(text, str) or encoding != "latin1":
        raise MalformedPickleError("bytes in an unknown encoding")
    budget.spend(len(text))
    return text.encode("latin1")


def _nested(budget: Budget, nesting: int, data: object) -> object:
    """A file within the file."""
    if not isinstance(data, bytes):
        raise MalformedPickleError("nested data that is no bytes")
    budget.spend(len(data))
    return _load(memoryview(bytearray(data)), budget, nesting + 1)


#: all that a pickle may call, with the three of `_run`; every other name becomes a Stub
FUNCTIONS: dict[str, Callable[..., object]] = {
    "torch.Size": lambda sizes=(): _whole_numbers(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.jit._pickle.restore_type_tag": lambda value, *_: value,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
}
