"""Checkpoints that somebody made to do harm: what each is, and its bytes."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

#: a file that any of these would make if it could run anything
CANARY = "canary"
SHELL = f"touch {CANARY}"


def text(word: str) -> bytes:
    """Push a text."""
    data = word.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    """Push a function or class by name."""
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + b"(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def pickled(*code: bytes) -> bytes:
    return b"\x80\x02" + b"".join(code) + b"."


def storage(count: int = 4, kind: str = "FloatStorage", key: str = "0") -> bytes:
    """Push a reference to a storage."""
    parts = (text("storage"), named("torch", kind), text(key), text("cpu"), number(count))
    return b"(" + b"".join(parts) + b"tQ"


def tensor(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, stored: bytes | None = None
) -> bytes:
    """Push a tensor."""
    shapes = [b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride)]
    given = storage() if stored is None else stored
    arguments = (given, number(offset), *shapes, b"\x89", b"N")
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


def in_dictionary(value: bytes, key: bytes = b"X\x01\x00\x00\x00w") -> bytes:
    return b"}" + key + value + b"s"


def archive(code: bytes, data: bytes = bytes(16), **more: bytes) -> bytes:
    """A PyTorch archive with one storage of four numbers."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        opened.writestr("archive/data.pkl", code)
        opened.writestr("archive/data/0", data)
        for name, content in more.items():
            opened.writestr(f"archive/{name}", content)
    return out.getvalue()


def code_execution() -> Iterator[tuple[str, bytes]]:
    """Every way to have something called."""
    for module, name in (
        *(("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "call")),
        *(("builtins", "eval"), ("builtins", "exec"), ("__builtin__", "eval")),
        *(("builtins", "__import__"), ("runpy", "run_path"), ("importlib", "import_module")),
        *(("torch.hub", "load"), ("torch", "load"), ("torch.serialization", "load")),
        *(("numpy", "load"), ("operator", "methodcaller"), ("functools", "partial")),
        *(("torch._dynamo", "os.system"), ("torch.utils.cpp_extension", "load_inline")),
        *(("d2s_cli.weights.pickles", "read_pickle"), ("shutil", "rmtree")),
    ):
        yield f"reduce {module}.{name}", pickled(call(module, name, text(SHELL)))
        yield f"in an archive {module}.{name}", archive(pickled(call(module, name, text(SHELL))))
    system = named("os", "system")
    yield "inst", pickled(b"(" + text(SHELL) + b"ios\nsystem\n")
    yield "obj", pickled(b"(" + system + text(SHELL) + b"o")
    yield "newobj", pickled(system + b"(" + text(SHELL) + b"t\x81")
    yield "newobj_ex", b"\x80\x04" + system + b"(" + text(SHELL) + b"t}\x92."
    stacked = text("os") + text("system") + b"\x93(" + text(SHELL) + b"tR"
    yield "stack global", b"\x80\x04" + stacked + b"."
    yield "extension registry", pickled(b"\x82\x01(" + text(SHELL) + b"tR")
    yield "text protocol", f"cos\nsystem\n(S'{SHELL}'\ntR.".encode()
    chain = call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system"))
    yield "getattr chain", pickled(chain + b"(" + text(SHELL) + b"tR")
    quiet = call("builtins", "getattr", named("torch", "nn"), text("os"))
    yield "getattr of torch", pickled(quiet + b"(" + text(SHELL) + b"tR")
    made = call("copyreg", "_reconstructor", named("os", "system"), named("builtins", "object"))
    yield "copyreg", pickled(made + b"}" + text("x") + text(SHELL) + b"sb")
    # state for what is no object of the file's: the reader's own functions
    for target in (named("collections", "OrderedDict"), named("torch", "Size"), tensor((4,), (1,))):
        for state in (
            in_dictionary(named("os", "system"), text("__class__")),
            b"N" + in_dictionary(b"(t", text("__defaults__")) + b"\x86",
        ):
            code = pickled(target + state + b"b")
            yield f"state of the reader's own {target[:30]!r} {state[:1]!r}", code
    inner = pickled(call("os", "system", text(SHELL)))
    nested = b"B" + struct.pack("<I", len(inner)) + inner
    yield "nested", b"\x80\x03" + call("torch.storage", "_load_from_bytes", nested) + b"."
    source = in_dictionary(text(f"import os; os.system({SHELL!r})"), text("module_src"))
    persistence = ("torch_utils.persistence", "_reconstruct_persistent_obj")
    yield "source in an object", pickled(call(*persistence, source))
    yield "reference", pickled(b"(" + text("storage") + call("os", "system", text(SHELL)) + b"tQ")
    yield "reference in text", b"Pos.system\n."
    yield "code in an archive", archive(pickled(b"N"), **{"code/x.py": SHELL.encode()})


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for much."""
    deep = 200_000
    yield "lists nested deep", pickled(b"]" * deep + b"a" * (deep - 1))
    yield "tuples nested deep", pickled(b")" + b"\x85" * deep)
    yield "a key nested deep", pickled(b"}" + b")" + b"\x85" * deep + b"Ns")
    nest = b"N"
    kind = named("torch._tensor", "_rebuild_from_type_v2")
    yield "calls nested deep", pickled((kind + b"N(") * 3000 + nest + b"tR" * 3000)
    doubled = b"".join(b"]q" + bytes([i]) + b"(h\x00h\x00e" for i in range(1, 120))
    yield "shared lists, doubled", pickled(b"]q\x00", doubled)
    yield "a list in itself", pickled(b"]q\x00h\x00a")
    same = b"".join(b"]q" + bytes([i]) + b"(h" + bytes([i - 1]) + b"h" + bytes([i - 1]) + b"e"
                    for i in range(1, 120))  # fmt: skip
    yield "two to the power of 119 paths", pickled(tensor((4,), (1,)) + b"q\x00", same)
    yield "millions of instructions", pickled(b"N0" * 1_000_000 + b"N")
    yield "millions of dictionaries", pickled(b"(" + b"}" * 700_000 + b"l")
    colliding = b"".join(number(i * (2**61 - 1)) + b"N" for i in range(40_000))
    yield "keys that collide", pickled(b"}(" + colliding + b"u")
    long = text("k" * 100_000) + b"q\x00"
    items = b"".join(b"h\x00}q" + bytes([i]) for i in range(1, 60)) + b"s" * 58
    yield "long names, nested", pickled(long + b"0}" + items + b"s")
    once = text("x" * 50_000) + b"q\x00" + text("latin1") + b"q\x01"
    again = named("_codecs", "encode") + b"q\x02" + b"h\x02h\x00h\x01\x86R" * 2_000
    yield "the same text as bytes", pickled(once + again + b"N")
    inner = pickled(b"N0" * 5_000 + b"N")
    data = b"B" + struct.pack("<I", len(inner)) + inner + b"q\x00"
    load = named("torch.storage", "_load_from_bytes") + b"q\x01"
    repeated = b"h\x01h\x00\x85R0" * 5_000
    yield "the same pickle again and again", b"\x80\x03" + data + load + repeated + b"N."
    pairs = b"](" + b"NN\x86" * 20_000 + b"eq\x00"
    many = named("collections", "OrderedDict") + b"q\x01" + b"h\x01h\x00\x85R" * 20_000
    yield "the same pairs again and again", pickled(pairs + many)


def lies() -> Iterator[tuple[str, bytes]]:
    """Lengths, places and counts that are not true."""
    yield "memo place", pickled(b"Nr\xff\xff\xff\x7f")
    yield "memo place in text", pickled(b"Np99999999999\n")
    yield "memo place below zero", pickled(b"Np-1\n")
    yield "memo place that is not there", pickled(b"j\xff\xff\xff\x7f")
    yield "text of an exabyte", b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x."
    yield "bytes of an exabyte", b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x."
    yield "bytearray of an exabyte", b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"x."
    yield "frame longer than the file", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."
    # a machine that believes frames drops the line's beginning and reads another program
    yield "frame that ends in a line", b"\x80\x04\x95" + struct.pack("<Q", 3) + b"VabN.\ncos\n."
    yield "number below zero bytes", pickled(b"\x8b\xff\xff\xff\xff")
    yield "number of two gigabytes", pickled(b"\x8b\xff\xff\xff\x7f1")
    yield "number in text", pickled(b"L" + b"9" * 100_000 + b"L\n")
    yield "protocol of the future", b"\x80\xff."
    yield "no end", b"\x80\x02}"
    yield "end of nothing", b"\x80\x02."
    yield "no pickle", b"GIF89a" + bytes(100)
    yield "empty", b""
    yield "run that never began", pickled(b"t")
    yield "key without value", pickled(b"}(Nu")
    for size, stride, offset in (
        *(((2**40,), (1,), 0), ((2**40,), (0,), 0), ((-4,), (1,), 0), ((4,), (-1,), 3)),
        *(((4,), (1,), 1), ((4,), (1,), -1), ((2, 2), (2,), 0), ((4,), (2**62,), 0)),
        *(((2**62, 2**62), (1, 1), 0), ((1,) * 100, (1,) * 100, 0), ((5,), (0,), 0)),
    ):
        code = pickled(in_dictionary(tensor(size, stride, offset)))
        yield f"tensor {size[:3]} {stride[:3]} {offset}", archive(code)
    huge = b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000
    shape = b"(" + huge + huge + b"t"
    rebuilt = call("torch._utils", "_rebuild_tensor_v2", storage(), b"K\x00", shape, shape)
    yield "size of a hundred thousand digits", archive(pickled(in_dictionary(rebuilt)))
    nan = b"(" + b"G" + struct.pack(">d", float("nan")) + b"t"
    rebuilt = call("torch._utils", "_rebuild_tensor_v2", storage(), b"K\x00", nan, nan)
    yield "size that is no number", archive(pickled(in_dictionary(rebuilt)))
    for count, kind in ((2**40, "FloatStorage"), (-1, "FloatStorage"), (5, "FloatStorage"),
                        (4, "DoubleStorage"), (4, "ComplexStorage")):  # fmt: skip
        code = pickled(in_dictionary(tensor((4,), (1,), stored=storage(count, kind))))
        yield f"storage of {count} {kind}", archive(code)
    away = pickled(in_dictionary(tensor((4,), (1,), stored=storage(key="../../etc/passwd"))))
    yield "storage elsewhere", archive(away)
    both = in_dictionary(tensor((4,), (1,))) + text("v") + tensor((2,), (1,), stored=storage(2))
    yield "storage of two sizes", archive(pickled(both + b"s"))
    stored = storage(100_000)
    many = b"".join(text(str(i)) + tensor((100_000,), (1,), 0, stored) for i in range(200))
    yield "one storage as many tensors", archive(pickled(b"}(" + many + b"u"), bytes(400_000))


def archives() -> Iterator[tuple[str, bytes]]:
    """Zip files that are not what they seem."""
    good = archive(pickled(in_dictionary(tensor((4,), (1,)))))
    end = good.rindex(b"PK\x05\x06")
    directory = struct.unpack("<L", good[end + 16 : end + 20])[0]
    second = good.index(b"PK\x01\x02", directory + 4)
    yield "directory of another place", good[: end + 16] + struct.pack("<L", 7) + good[end + 20 :]
    count = struct.pack("<HH", 60_000, 60_000)
    yield "more records than there are", good[: end + 8] + count + good[end + 12 :]
    yield "records that overlap", good[: second + 42] + struct.pack("<L", 0) + good[second + 46 :]
    yield (
        "record behind the end",
        (good[: second + 20] + struct.pack("<LL", 10**6, 10**6) + good[second + 28 :]),
    )
    yield "sizes that differ", good[: second + 24] + struct.pack("<L", 10**6) + good[second + 28 :]
    yield "encrypted", good[: second + 8] + b"\x01\x00" + good[second + 10 :]
    yield "cut off", good[: len(good) // 2]
    yield "only its end", good[end:]
    renamed = good.replace(b"archive/data/0", b"archive/data.p").replace(b"data.p\n", b"data/0\n")
    yield "renamed record", renamed
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("archive/data.pkl", pickled(b"N"))
        opened.writestr("archive/data/0", bytes(50_000_000))
    yield "compressed", out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the second of that name
        for _ in range(2):
            opened.writestr("archive/data.pkl", pickled(in_dictionary(tensor((4,), (1,)))))
    yield "two of the same name", out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        opened.writestr("../data.pkl", pickled(in_dictionary(tensor((4,), (1,)))))
        opened.writestr(f"../../{CANARY}", b"x")
        opened.writestr(f"/tmp/{CANARY}", b"x")
    yield "paths out of the folder", out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        for number_ in range(3):
            opened.writestr(f"{number_}/data.pkl", b"N.")
    yield "three pickles", out.getvalue()
    yield "big-endian", archive(pickled(b"N"), byteorder=b"big")


def streams() -> Iterator[tuple[str, bytes]]:
    """torch's older container."""
    out = io.BytesIO()
    torch.save({"w": torch.ones(4)}, out, _use_new_zipfile_serialization=False)
    good = out.getvalue()
    yield "stream cut off", good[:-4]
    yield "stream of other length", good[:-24] + struct.pack("<q", 2**40) + good[-16:]
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))
    root = pickled(in_dictionary(tensor((4,), (1,), stored=storage(2**40))))
    yield (
        "stream of a huge storage",
        head + root + pickle.dumps(["0"], 2) + struct.pack("<q", 2**40),
    )
    small = pickled(in_dictionary(tensor((4,), (1,))))
    numbers = struct.pack("<q", 4) + bytes(16)
    yield "stream of one storage twice", head + small + pickle.dumps(["0", "0"], 2) + 2 * numbers
    yield "stream without keys", head + small + pickle.dumps({"0": 1}, 2) + numbers
    yield "stream of other keys", head + small + pickle.dumps(["1"], 2) + numbers


def safetensors() -> Iterator[tuple[str, bytes]]:
    """Files of that format, with its ending."""

    def made(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
        packed = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(packed) if length is None else length) + packed + data

    def one(**changes: object) -> dict[str, object]:
        return {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}

    yield "header cut off", made(one(), b"")[:20]
    yield "header of an exabyte", made(one(), length=2**60)
    yield "header of a gigabyte", made(one(), length=2**30)
    yield "no JSON", made(b"{" * 40)
    yield "numbers cut off", made(one(), bytes(8))
    yield "numbers too many", made(one(), bytes(99))
    yield "overlap", made(one() | {"v": one()["w"]})
    yield "offsets reversed", made(one(data_offsets=[16, 0]))
    yield "offsets outside", made(one(data_offsets=[0, 2**40]))
    yield "shape of more", made(one(shape=[2**40]))
    yield "shape that overflows", made(one(shape=[2**62, 2**62]))
    yield "shape below zero", made(one(shape=[-4]))
    yield "unknown format", made(one(dtype="X1"))
    yield "deep JSON", made({"__metadata__": {"d2s": "[" * 100_000}, **one()})
    yield "long number", made({"__metadata__": {"d2s": "9" * 100_000}, **one()})
    yield "header that is no table", made({"__metadata__": {"d2s": "[1]"}, **one()})
    yield "parts without end", made({"blocks.999999999.w": one()["w"]})
    yield "empty file", b""
    yield "seven bytes", b"1234567"


GROUPS = {
    "code": (code_execution, ".pth"),
    "bombs": (bombs, ".ckpt"),
    "lies": (lies, ".pt"),
    "archives": (archives, ".pth"),
    "streams": (streams, ".pth"),
    "safetensors": (safetensors, ".safetensors"),
}


def write_all(folder: Path) -> list[tuple[str, Path]]:
    """Write every hostile file; returns what each is, and where."""
    written = []
    for group, (make, suffix) in GROUPS.items():
        for number_, (what, data) in enumerate(make()):
            path = folder / f"{group}-{number_}{suffix}"
            path.write_bytes(data)
            written.append((f"{group}: {what}", path))
    return written
