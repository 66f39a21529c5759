"""Read the tensors of a pickle without running anything that it names.

A checkpoint is a program for a small stack machine that may call any function in Python. Here the
machine runs with an allow-list: plain containers and tensors are built, and every other name in the
file becomes an inert `Stub` that only remembers what it was given. So files with Lightning's
callbacks, OmegaConf settings, live modules with their source code, or TorchScript archives can be
read for their numbers, with none of these packages installed and none of that code run.

Four containers: torch's zip archive (TorchScript's too), torch's older stream, a plain pickle with
torch storages inside, and any of them nested in `_load_from_bytes`.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

#: pickles with more instructions than this are refused: the largest published ones have 100,000
MAX_INSTRUCTIONS = 3_000_000
#: dotted names deeper than this are refused
MAX_DEPTH = 64
#: first words of torch's older stream
STREAM_MAGIC = 0x1950A86A20F9469CFC6C

#: No checkpoint needs these. A stub would keep them from running as well; naming them tells the
#: user whom not to trust.
HOSTILE = frozenset(
    "os posix nt sys subprocess socket shutil importlib runpy pty ctypes webbrowser code codeop"
    " commands asyncio multiprocessing threading signal io _io tempfile pickle _pickle marshal"
    " inspect pdb timeit urllib http requests".split()
)
HARMLESS_BUILTINS = frozenset(
    "set frozenset list dict tuple int float complex str bytes bytearray bool slice range object"
    " type getattr".split()
)

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


class MalformedPickleError(ValueError):
    """The file is not what it says it is; the caller names the file."""


class HostilePickleError(MalformedPickleError):
    """The file names a function that no checkpoint needs. It was not called."""


class Table(dict[Any, Any]):
    """Stands in for OrderedDict; attributes that a pickle sets on it are dropped."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # keys by identity

    def __setstate__(self, state: object) -> None:
        pass


class Stub(dict[Any, Any]):
    """Stands in for an object of any class that the file names. Holds what it is given."""

    origin: ClassVar[str] = ""
    __hash__ = object.__hash__  # type: ignore[assignment]  # keys by identity

    def __new__(cls, *args: object, **kwargs: object) -> Stub:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()
        self.args = args
        self.state: object = None

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        self[len(self)] = item

    def extend(self, items: list[object]) -> None:
        for item in items:
            self.append(item)


@cache
def stub_class(origin: str) -> type[Stub]:
    return type("Stub", (Stub,), {"origin": origin})


@dataclass
class Storage:
    """A run of numbers in the file; `data` is filled in when it has been found."""

    dtype: torch.dtype
    count: int
    data: memoryview | None = None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not looked up yet: a view of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def load(self) -> Tensor:
        """The tensor, sharing memory with the file where that is possible.

        Raises:
            MalformedPickleError: it reaches outside of its storage, or claims more than is stored.
        """
        if self.storage.data is None:
            raise MalformedPickleError("a tensor whose numbers are not in the file")
        itemsize = self.dtype.itemsize
        stored = len(self.storage.data) // itemsize
        numbers = 1
        for length in self.size:
            numbers *= length
        last = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if min((*self.size, *self.stride, self.offset, 0)) < 0 or (
            numbers and (numbers > stored or self.offset + last >= stored)
        ):
            raise MalformedPickleError(f"a tensor of {list(self.size)} in {stored} numbers")
        if not numbers:
            return torch.empty(self.size, dtype=self.dtype)
        flat = torch.frombuffer(self.storage.data, dtype=self.dtype, count=stored)
        return flat.as_strided(self.size, self.stride, self.offset)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Every tensor of a pickled file by its dotted path in the file.

    Dictionaries give their keys, sequences their indices, modules the names of their state dict.

    Raises:
        MalformedPickleError, and what the standard readers raise: the file is damaged or hostile.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise MalformedPickleError("the file is empty")
        buffer = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return flat_tensors(_load(buffer, nesting=0))


def flat_tensors(root: object) -> dict[str, Tensor]:
    """The tensors in a tree of containers and stubs, by dotted path."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], object]] = [((), root)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, StoredTensor):
            found[".".join(path)] = item.load()
            continue
        # containers may be shared or contain themselves: each is opened once
        if id(item) in seen:
            continue
        if len(path) > MAX_DEPTH:
            raise MalformedPickleError(f"containers nested deeper than {MAX_DEPTH}")
        children = list(_children(item))
        if children:
            seen.add(id(item))
            waiting += [((*path, *([name] if name else [])), child) for name, child in children]
    return dict(sorted(found.items()))


def _children(item: object) -> Iterator[tuple[str, object]]:
    if isinstance(item, Stub):
        yield from _module_members(item.state)
        yield from ((str(k), v) for k, v in item.items())
    elif isinstance(item, Mapping):
        yield from ((str(k), v) for k, v in item.items())
    elif isinstance(item, list | tuple):
        yield from ((str(i), v) for i, v in enumerate(item))


def _module_members(state: object) -> Iterator[tuple[str, object]]:
    """A module's tables hold its members; what else it remembers is no part of its state dict."""
    if not isinstance(state, Mapping):
        yield "", state
    elif "_parameters" in state and "_modules" in state:
        for table in ("_parameters", "_buffers", "_modules"):
            yield from _children(state.get(table))
    else:
        yield from _children(state)


def _load(buffer: memoryview, nesting: int) -> object:
    if nesting > 2:
        raise MalformedPickleError("pickles inside pickles inside pickles")
    if bytes(buffer[:2]) == b"PK":
        return _load_archive(buffer)
    stream = io.BytesIO(buffer)
    try:
        first = _checked(stream, nesting, Storages()).load()
    except UnicodeDecodeError as error:
        raise MalformedPickleError(str(error)) from error
    if first == STREAM_MAGIC:
        return _load_stream(buffer, stream, nesting)
    return first


def _load_archive(buffer: memoryview) -> object:
    """torch's zip archive: one pickle, and each storage as a record of its own."""
    records = _records(buffer)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise MalformedPickleError("a zip file, but no PyTorch archive")
    folder = pickles[0].removesuffix("data.pkl")
    if (order := records.get(folder + "byteorder")) is not None and bytes(order) != b"little":
        raise MalformedPickleError("numbers in big-endian order")

    def find(key: str) -> memoryview | None:
        return records.get(f"{folder}data/{key}")

    storages = Storages(find)
    return _checked(io.BytesIO(records[pickles[0]]), 0, storages).load()


def _records(buffer: memoryview) -> dict[str, memoryview]:
    """The uncompressed records of a zip file as views of it."""
    records = {}
    with zipfile.ZipFile(io.BytesIO(buffer)) as archive:
        for info in archive.infolist():
            _, _, name = info.filename.partition("/")
            if info.is_dir() or not name.startswith(("data", "byteorder")):
                continue  # TorchScript's code and debug records are not looked at
            if info.compress_type != zipfile.ZIP_STORED:
                raise MalformedPickleError(
                    f"{info.filename} is compressed, which PyTorch never does; unpack the zip first"
                )
            # the local header repeats name and extra field with lengths of its own
            header = bytes(buffer[info.header_offset : info.header_offset + 30])
            if len(header) < 30 or header[:4] != b"PK\x03\x04":
                raise MalformedPickleError("damaged zip record")
            lengths = struct.unpack("<HH", header[26:30])
            start = info.header_offset + 30 + sum(lengths)
            record = buffer[start : start + info.file_size]
            if len(record) != info.file_size:
                raise MalformedPickleError(f"{info.filename} is cut off")
            records[info.filename] = record
    return records


def _load_stream(buffer: memoryview, stream: io.BytesIO, nesting: int) -> object:
    """torch's older container: magic, version, machine, object, storage keys, storages."""
    storages = Storages()
    for _ in range(2):
        _checked(stream, nesting, storages).load()
    root = _checked(stream, nesting, storages).load()
    keys = _checked(stream, nesting, storages).load()
    if not isinstance(keys, list):
        raise MalformedPickleError("no list of storages")
    position = stream.tell()
    for key in keys:
        if (storage := storages.by_key.get(str(key))) is None:
            raise MalformedPickleError(f"a storage {key!r} that nothing uses")
        start = position + 8
        end = start + storage.count * storage.dtype.itemsize
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

    def __call__(self, reference: object) -> Storage:
        """From ("storage", type, key, device, count[, view of it])."""
        match reference:
            case ("storage", type() as kind, key, _, int() as count, *_) if issubclass(kind, Stub):
                dtype = STORAGE_DTYPES.get(kind.origin.rpartition(".")[2])
                if dtype is None or count < 0:
                    raise MalformedPickleError(f"a storage of kind {kind.origin}")
                return self.by_key.setdefault(str(key), Storage(dtype, count, self.find(str(key))))
        raise MalformedPickleError("a reference that is no storage")


def _checked(stream: io.BytesIO, nesting: int, storages: Storages) -> _Reader:
    """A reader for the pickle at the stream's position, after its instructions were looked through.

    The standard reader believes the lengths and table places that a pickle claims; a false one
    would make it take any amount of memory.
    """
    start = stream.tell()
    length = stream.getbuffer().nbytes - start
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_INSTRUCTIONS:
            raise MalformedPickleError(f"more than {MAX_INSTRUCTIONS} instructions")
        if "PUT" in instruction.name and isinstance(argument, int) and argument > length:
            raise MalformedPickleError("a table larger than the file")
    stream.seek(start)
    return _Reader(stream, nesting, storages)


class _Reader(pickle.Unpickler):
    """The stack machine with the allow-list."""

    def __init__(self, stream: io.BytesIO, nesting: int, storages: Storages) -> None:
        super().__init__(stream, encoding="latin1")
        self.nesting = nesting
        self.storages = storages

    def persistent_load(self, reference: object) -> Storage:
        return self.storages(reference)

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        if origin == "torch.storage._load_from_bytes":
            return self._load_from_bytes
        if module.partition(".")[0] in HOSTILE or (
            module == "builtins" and name not in HARMLESS_BUILTINS
        ):
            raise HostilePickleError(origin)
        return ALLOWED.get(origin) or stub_class(origin)

    def _load_from_bytes(self, data: object) -> object:
        if not isinstance(data, bytes):
            raise MalformedPickleError("nested data that is no bytes")
        return _load(memoryview(data), self.nesting + 1)


def _tensor(
    storage: object, offset: object, size: object, stride: object, dtype: torch.dtype | None = None
) -> StoredTensor | Stub:
    """torch._utils._rebuild_tensor_v2 and its kin."""
    whole = isinstance(offset, int) and isinstance(size, tuple) and isinstance(stride, tuple)
    if not isinstance(storage, Storage) or not whole:
        raise MalformedPickleError("a tensor without storage, size or stride")
    assert isinstance(offset, int)
    assert isinstance(size, tuple)
    assert isinstance(stride, tuple)
    if len(size) != len(stride) or not all(isinstance(n, int) for n in (*size, *stride)):
        raise MalformedPickleError("a tensor whose size and stride do not match")
    return StoredTensor(storage, offset, size, stride, dtype or storage.dtype)


def _persistent_object(meta: object) -> Stub:
    """An object that carries its own source code: its state, without the code."""
    made = Stub()
    made.state = meta.get("state") if isinstance(meta, Mapping) else None
    return made


def _bytes_from_text(text: object, encoding: object = "latin1") -> bytes:
    """How old protocols write bytes (_codecs.encode)."""
    if not isinstance(text, str) or encoding != "latin1":
        raise MalformedPickleError("bytes in an unknown encoding")
    return text.encode("latin1")


#: all that a pickle may call; every other name becomes a Stub
ALLOWED: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _bytes_from_text,
    "collections.OrderedDict": Table,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": lambda s, o, n, t, *_: _tensor(s, o, n, t),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
}
