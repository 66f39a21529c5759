"""The directories of TIFF files (and of EXIF blocks, which are built the same way).

A page is one directory: numbered tags, child directories, and blocks of coded pixels. Pages that
are not touched go from file to file without being decoded.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
#: bytes of a value, and of the numbers that byte order turns round, by type
_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_WORD = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, STRIP_SIZES = 273, 277, 278, 279
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, PLANAR, RESOLUTION_UNIT = 274, 282, 283, 284, 296
PREDICTOR, TILE_OFFSETS, TILE_SIZES, SUB_PAGES = 317, 324, 325, 330
EXTRA_SAMPLES, SAMPLE_FORMAT, XMP, ICC = 338, 339, 700, 34675
EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965
PHOTOSHOP_LAYERS = 37724
#: tags that point to directories
_CHILDREN = (SUB_PAGES, EXIF, GPS, INTEROPERABILITY)
#: tags that point to coded pixels, with the tag of their sizes
_BLOCKS = {STRIP_OFFSETS: STRIP_SIZES, TILE_OFFSETS: TILE_SIZES, 513: 514}
#: tags of old JPEG coding that point to tables, which are not followed
_LOOSE_POINTERS = frozenset({519, 520, 521})
#: tags that say how the pixels are coded
LAYOUT = frozenset(
    [
        *(254, 255, *range(256, 260), *range(262, 267), 273, *range(277, 282), 284),
        *(*range(288, 294), 317, *range(320, 331), *range(332, 335), *range(336, 344)),
        *(347, *range(512, 522), *range(529, 533), 559),
    ]
)
_NO_COMPRESSION, _DEFLATE = 1, 8
_PHOTOMETRIC = {"L": 1, "LA": 1, "RGB": 2, "RGBA": 2, "CMYK": 5}
#: uncompressed bytes of a strip
_STRIP = 1 << 20
_LEVEL = 4
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Entry:
    """One tag's values: TIFF type, how many, and their bytes in little-endian order."""

    type: int
    count: int
    data: bytes

    def numbers(self) -> list[int]:
        """Values of whole-number types."""
        code = {1: "B", SHORT: "H", LONG: "I", 13: "I"}.get(self.type)
        if code is None:
            raise ValueError(f"numbers expected in a tag of type {self.type}")
        return list(struct.unpack(f"<{self.count}{code}", self.data))


def number_entry(*values: int, type: int = LONG) -> Entry:
    code = "H" if type == SHORT else "I"
    return Entry(type, len(values), struct.pack(f"<{len(values)}{code}", *values))


@dataclass
class Directory:
    """One page, or a group of EXIF tags.

    Attributes:
        entries: by tag, without those that point somewhere.
        children: directories by the tag that points to them.
        blocks: coded strips, tiles or JPEG streams by the tag that points to them.
    """

    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, list[Directory]] = field(default_factory=dict)
    blocks: dict[int, list[bytes | memoryview]] = field(default_factory=dict)

    def number(self, tag: int, default: int) -> int:
        """First value of a tag."""
        entry = self.entries.get(tag)
        return entry.numbers()[0] if entry and entry.count else default

    def only(self, wanted: Callable[[int], bool]) -> Directory:
        """A copy with the tags and children that are wanted, and the blocks."""
        return replace(
            self,
            entries={t: e for t, e in self.entries.items() if wanted(t)},
            children={
                t: [d.only(wanted) for d in found]
                for t, found in self.children.items()
                if wanted(t)
            },
        )

    def metadata(self) -> Directory:
        """The tags that say nothing about the coding of the pixels, without blocks."""
        kept = self.only(lambda tag: tag not in LAYOUT and tag != PHOTOSHOP_LAYERS)
        return replace(kept, blocks={})

    def can_be_copied(self) -> bool:
        """False if the page holds pointers that do not survive in another file."""
        children = [child for found in self.children.values() for child in found]
        return not _LOOSE_POINTERS & self.entries.keys() and all(
            child.can_be_copied() for child in children
        )


def read_directories(data: bytes) -> tuple[list[Directory], str]:
    """The pages of a TIFF file, and its byte order ("<" or ">").

    Raises:
        ValueError: no classic TIFF, or damaged.
    """
    order = _order_of(data)
    pages = _Reader(data, order).pages()
    if not pages:
        raise ValueError("a TIFF file without pages")
    return pages, order


def read_exif(block: bytes) -> tuple[Directory, bool]:
    """The main directory of an EXIF block, and whether a thumbnail's directory follows.

    Raises:
        ValueError: damaged.
    """
    order = _order_of(block)
    reader = _Reader(block, order)
    main, following = reader.directory(reader.unpack("I", 4)[0])
    return main, following != 0


def _order_of(data: bytes) -> str:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError("no TIFF signature")
    return order


class _Reader:
    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order = data, order
        self.seen: set[int] = set()

    def pages(self) -> list[Directory]:
        (offset,) = self.unpack("I", 4)
        found = []
        while offset:
            directory, offset = self.directory(offset)
            found.append(directory)
        return found

    def unpack(self, code: str, offset: int) -> tuple[Any, ...]:
        try:
            return struct.unpack_from(self.order + code, self.data, offset)
        except struct.error as error:
            raise ValueError("the TIFF directory is truncated") from error

    def directory(self, offset: int) -> tuple[Directory, int]:
        """The directory at an offset and the offset of the next one."""
        if offset in self.seen:
            raise ValueError("the TIFF directories form a circle")
        self.seen.add(offset)
        (count,) = self.unpack("H", offset)
        found = Directory()
        for number in range(count):
            tag, kind, length = self.unpack("HHI", offset + 2 + 12 * number)
            if kind in _SIZE:
                found.entries[tag] = self.entry(kind, length, offset + 10 + 12 * number)
        self.follow(found)
        return found, self.unpack("I", offset + 2 + 12 * count)[0]

    def entry(self, kind: int, count: int, at: int) -> Entry:
        size = _SIZE[kind] * count
        if size > 4:
            (at,) = self.unpack("I", at)
        return Entry(kind, count, _swapped(bytes(self.bytes_at(at, size)), kind, self.order))

    def bytes_at(self, offset: int, size: int) -> memoryview:
        if offset + size > len(self.data):
            raise ValueError("the file is truncated")
        return memoryview(self.data)[offset : offset + size]

    def follow(self, found: Directory) -> None:
        """Replace pointers by what they point to."""
        for tag in _CHILDREN:
            if entry := found.entries.pop(tag, None):
                found.children[tag] = [self.directory(o)[0] for o in entry.numbers() if o]
        for offsets, sizes in _BLOCKS.items():
            if offsets in found.entries and sizes in found.entries:
                places = found.entries.pop(offsets).numbers()
                lengths = found.entries.pop(sizes).numbers()
                pairs = zip(places, lengths, strict=True)
                found.blocks[offsets] = [self.bytes_at(place, size) for place, size in pairs]


def _swapped(data: bytes, kind: int, order: str) -> bytes:
    """Little-endian bytes in the given order, or back."""
    if order == "<" or kind not in _WORD:
        return data
    return np.frombuffer(data, f"u{_WORD[kind]}").byteswap().tobytes()


def write_directories(pages: Sequence[Directory], order: str, file: BinaryIO) -> None:
    """Write a TIFF file.

    Args:
        pages: in their order.
        order: "<" or ">"; must be that of the blocks' samples.
        file: open for writing, at its start, seekable.

    Raises:
        ValueError: larger than TIFF's 4 GiB.
    """
    file.write(b"II*\0" if order == "<" else b"MM\0*")
    link = file.tell()
    file.write(bytes(4))
    try:
        for page in pages:
            place, following = _write(page, order, file)
            file.seek(link)
            file.write(struct.pack(order + "I", place))
            file.seek(0, 2)
            link = following
    except struct.error as error:
        raise ValueError("the picture is larger than the 4 GiB that TIFF can hold") from error


def _write(page: Directory, order: str, file: BinaryIO) -> tuple[int, int]:
    """Write one directory; returns its place, and that of its link to the next one."""
    entries = dict(page.entries)
    for offsets, blocks in page.blocks.items():
        entries[offsets] = number_entry(*(_append(block, file) for block in blocks))
        entries[_BLOCKS[offsets]] = number_entry(*(len(block) for block in blocks))
    for tag, children in page.children.items():
        entries[tag] = number_entry(*(_write(child, order, file)[0] for child in children))
    fields = []
    for tag, entry in sorted(entries.items()):
        value = _swapped(entry.data, entry.type, order)
        if len(value) > 4:
            value = struct.pack(order + "I", _append(value, file))
        fields.append(
            struct.pack(order + "HHI", tag, entry.type, entry.count) + value.ljust(4, b"\0")
        )
    body = b"".join(fields)
    place = _append(struct.pack(order + "H", len(fields)) + body + bytes(4), file)
    return place, place + 2 + len(body)


def _append(data: bytes | memoryview, file: BinaryIO) -> int:
    """Write at an even place, as TIFF wants it; returns the place."""
    place = file.tell()
    if place % 2:
        file.write(b"\0")
        place += 1
    file.write(data)
    return place


def encode_page(
    samples: NDArray[Any], kind: str, order: str, compressed: bool, extra: int | None
) -> Directory:
    """A page that holds a picture, without metadata.

    Args:
        samples: H x W x C, uint8 or uint16.
        kind: a key of colour.CHANNELS.
        order: byte order of the file.
        compressed: Deflate with horizontal differences; else uncompressed.
        extra: TIFF's meaning of the last channel where that is not a colour; 2 for plain alpha.
    """
    height, width, channels = samples.shape
    rows = max(1, _STRIP // (width * channels * samples.itemsize))
    shorts = {
        BITS: (8 * samples.itemsize,) * channels,
        COMPRESSION: (_DEFLATE if compressed else _NO_COMPRESSION,),
        PHOTOMETRIC: (_PHOTOMETRIC[kind],),
        SAMPLES_PER_PIXEL: (channels,),
        PLANAR: (1,),
        SAMPLE_FORMAT: (1,) * channels,
    }
    if compressed:
        shorts[PREDICTOR] = (2,)
    if extra is not None:
        shorts[EXTRA_SAMPLES] = (extra,)
    entries = {tag: number_entry(*values, type=SHORT) for tag, values in shorts.items()}
    for tag, value in ((WIDTH, width), (HEIGHT, height), (ROWS_PER_STRIP, rows)):
        entries[tag] = number_entry(value)
    parts = (samples[top : top + rows] for top in range(0, height, rows))
    with ThreadPoolExecutor(_THREADS) as pool:  # zlib works outside the interpreter's lock
        strips = pool.map(lambda part: _strip(part, order, compressed), parts)
        return Directory(entries, blocks={STRIP_OFFSETS: list(strips)})


def _strip(samples: NDArray[Any], order: str, compressed: bool) -> bytes:
    ordered = samples.dtype.newbyteorder(order)  # type: ignore[arg-type]
    if not compressed:
        return samples.astype(ordered).tobytes()
    differences = samples.copy()
    differences[:, 1:] -= samples[:, :-1]
    return zlib.compress(differences.astype(ordered).tobytes(), _LEVEL)
