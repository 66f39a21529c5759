"""The records of a zip file: as views of it for PyTorch's archives, unpacked for other zip files.

Written for files that nobody vouches for: no name becomes a path, nothing is unpacked to more than
it says and than weights can be, and a file whose records overlap, repeat a name or contradict
themselves is refused.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from d2s_cli.weights.pickle_machine import MalformedPickleError

#: PyTorch writes a record for each storage and a few more
MAX_RECORDS = 100_000
MAGIC = b"PK\x03\x04"
END = b"PK\x05\x06"
END_SIZE, COMMENT_SIZE = 22, 65_535
WIDE_LOCATOR, WIDE_END = b"PK\x06\x07", b"PK\x06\x06"
ENTRY, ENTRY_SIZE = b"PK\x01\x02", 46
STORED, DEFLATED, ENCRYPTED = 0, 8, 1
#: most bytes of an unpacked record, and most times the bytes that it takes packed (or MAX_EASY, if
#: that is more): trained numbers hardly shrink
MAX_UNPACKED, MAX_RATIO, MAX_EASY = 8 * 10**9, 50, 1 << 20
PIECE = 1 << 20
#: a size or place of 32 bits with this value stands in the extra field with 64
WIDE = 0xFFFFFFFF


@dataclass(frozen=True)
class Record:
    """One entry of the zip file's directory."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    place: int


def stored_records(buffer: memoryview, wanted: Callable[[str], bool]) -> dict[str, memoryview]:
    """Name and content of the records that are wanted.

    Raises:
        MalformedPickleError: the directory is damaged, records overlap or repeat a name, or a
            wanted one is compressed or encrypted.
    """
    records = read_directory(buffer)
    return {name: _content(buffer, records[name]) for name in records if wanted(name)}


def read_directory(buffer: memoryview) -> dict[str, Record]:
    """All records by name.

    Raises:
        MalformedPickleError: the directory is damaged, or records overlap or repeat a name.
    """
    records: dict[str, Record] = {}
    spans = []
    for record in _directory(buffer):
        if record.name in records:
            raise MalformedPickleError(f"two records of the name {record.name!r}")
        records[record.name] = record
        spans.append((record.place, _start(buffer, record) + record.packed))
    spans.sort()
    for (_, end), (start, _) in itertools.pairwise(spans):
        if start < end:
            raise MalformedPickleError("records that overlap")
    if spans and spans[-1][1] > len(buffer):
        raise MalformedPickleError("a zip file that is cut off")
    return records


def inflate(buffer: memoryview, record: Record) -> Iterator[bytes]:
    """The content of a record in pieces, compressed or not; never more than it says it has.

    Raises:
        MalformedPickleError: encrypted, packed in another way, damaged, or of another size than it
            says; or it says more than weights can be.
    """
    if record.flags & ENCRYPTED:
        raise MalformedPickleError(f"{record.name!r} is encrypted")
    if record.size > MAX_UNPACKED or record.size > MAX_RATIO * max(record.packed, MAX_EASY):
        raise MalformedPickleError(
            f"{record.name!r} has {record.size} bytes in {record.packed}, which weights do not"
        )
    start = _start(buffer, record)
    packed = buffer[start : start + record.packed]
    if record.method == STORED:
        starts = range(0, len(packed), PIECE)
        pieces: Iterator[bytes] = (bytes(packed[i : i + PIECE]) for i in starts)
    elif record.method == DEFLATED:
        pieces = _inflated(packed)
    else:
        raise MalformedPickleError(f"{record.name!r} is packed in a way that d2s does not read")
    crc = size = 0
    for piece in pieces:
        size += len(piece)
        if size > record.size:
            break
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != record.size or crc != record.crc:
        raise MalformedPickleError(f"{record.name!r} is damaged")


def _inflated(packed: memoryview) -> Iterator[bytes]:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for i in range(0, len(packed), PIECE):
            yield machine.decompress(packed[i : i + PIECE], PIECE)
            while machine.unconsumed_tail:
                yield machine.decompress(machine.unconsumed_tail, PIECE)
        # what the last piece leaves inside is less than a piece
        yield machine.flush()
    except zlib.error as error:
        raise MalformedPickleError(f"a damaged zip record: {error}") from error


def _content(buffer: memoryview, record: Record) -> memoryview:
    if record.flags & ENCRYPTED:
        raise MalformedPickleError(f"{record.name!r} is encrypted")
    if record.method != STORED or record.packed != record.size:
        raise MalformedPickleError(
            f"{record.name!r} is compressed, which PyTorch never does; unpack the zip first"
        )
    start = _start(buffer, record)
    return buffer[start : start + record.size]


def _start(buffer: memoryview, record: Record) -> int:
    """Where the content begins."""
    # the local header repeats name and extra field with lengths of its own
    header = bytes(buffer[record.place : record.place + 30])
    if len(header) < 30 or header[:4] != MAGIC:
        raise MalformedPickleError("a damaged zip record")
    return int(record.place + 30 + sum(struct.unpack("<HH", header[26:30])))


def _directory(buffer: memoryview) -> Iterator[Record]:
    count, place = _end(buffer)
    if count > MAX_RECORDS:
        raise MalformedPickleError(f"more than {MAX_RECORDS} records")
    for _ in range(count):
        entry = bytes(buffer[place : place + ENTRY_SIZE])
        if len(entry) < ENTRY_SIZE or entry[:4] != ENTRY:
            raise MalformedPickleError("a damaged zip directory")
        flags, method, _, crc = struct.unpack("<HHLL", entry[8:20])
        packed, size, name_size, extra_size, comment_size = struct.unpack("<LLHHH", entry[20:34])
        (start,) = struct.unpack("<L", entry[42:46])
        name_start = place + ENTRY_SIZE
        extra_start = name_start + name_size
        name = bytes(buffer[name_start:extra_start]).decode("utf-8", "replace")
        extra = bytes(buffer[extra_start : extra_start + extra_size])
        size, packed, start = _widened(extra, [size, packed, start])
        yield Record(name, flags, method, crc, packed, size, start)
        place = extra_start + extra_size + comment_size


def _end(buffer: memoryview) -> tuple[int, int]:
    """How many entries the directory has, and where it begins."""
    tail_start = max(0, len(buffer) - END_SIZE - COMMENT_SIZE)
    tail = bytes(buffer[tail_start:])
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < END_SIZE:
        raise MalformedPickleError("a zip file that is cut off")
    count, _, place = struct.unpack("<HLL", tail[at + 10 : at + 20])
    locator = bytes(buffer[max(0, tail_start + at - 20) : tail_start + at])
    if locator[:4] == WIDE_LOCATOR:
        (wide,) = struct.unpack("<Q", locator[8:16])
        record = bytes(buffer[wide : wide + 56])
        if len(record) < 56 or record[:4] != WIDE_END:
            raise MalformedPickleError("a damaged zip directory")
        count, _, place = struct.unpack("<QQQ", record[32:56])
    return count, place


def _widened(extra: bytes, values: list[int]) -> list[int]:
    """Values of 32 bits replaced by those of 64 in the extra field, in its fixed order."""
    if WIDE not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            wide = iter(struct.iter_unpack("<Q", extra[at + 4 : at + 4 + size // 8 * 8]))
            return [next(wide, (value,))[0] if value == WIDE else value for value in values]
        at += 4 + size
    return values
