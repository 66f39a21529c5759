"""The chunks of PNG files: read, built, and put into a file that was coded without them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: chunks that say how colours are meant; without them the same samples look different
COLOUR = frozenset({b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"})
#: ancillary chunks that belong to the coding of the pixels or to an animation
_OF_PIXELS = frozenset({b"tRNS", b"hIST", b"sPLT", b"acTL", b"fcTL", b"fdAT"})
#: ancillary chunks whose meaning hangs on colour type and depth
_OF_LAYOUT = frozenset({b"bKGD", b"sBIT"})
#: colour type by number of channels, for 8 and 16 bits
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
#: left, top and steps to the right and down of the passes of an interlaced file
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
#: uncompressed bytes that are filtered and compressed at a time
_BLOCK = 1 << 22
_LEVEL = 4


@dataclass(frozen=True)
class Chunk:
    """One chunk: its four-letter name and its data."""

    name: bytes
    data: bytes

    def to_bytes(self) -> bytes:
        checksum = zlib.crc32(self.data, zlib.crc32(self.name))
        return (
            struct.pack(">I", len(self.data)) + self.name + self.data + struct.pack(">I", checksum)
        )


def iter_chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG file in their order.

    Raises:
        ValueError: no PNG, damaged, or cut off before its end.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG signature")
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"damaged chunk {name.decode('latin-1')}")
        yield Chunk(name, b"" if name == b"IDAT" else data[at + 8 : end])
        if name == b"IEND":
            return
        at = end + 4
    raise ValueError("the file is truncated")


@dataclass(frozen=True)
class Layout:
    """What the header says: bits a sample, PNG's colour type (3 is a palette), and the size."""

    depth: int
    colour_type: int
    width: int
    height: int
    interlaced: bool

    def size_of_pixels(self) -> int:
        """Bytes of the filtered rows, each with its filter's number."""
        bits = self.depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(self.colour_type, 1)
        total = 0
        for left, top, right, down in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            width = -(-(self.width - left) // right)
            height = -(-(self.height - top) // down)
            if width > 0 and height > 0:
                total += height * (1 + (width * bits + 7) // 8)
        return total


def layout_of(chunks: Iterable[Chunk]) -> Layout:
    """Of a file's chunks; ValueError if they do not begin with a header."""
    first = next(iter(chunks), None)
    if first is None or first.name != b"IHDR" or len(first.data) != 13:
        raise ValueError("no PNG header")
    width, height, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", first.data)
    return Layout(depth, colour_type, width, height, bool(interlaced))


def check_pixels(data: bytes, layout: Layout) -> None:
    """Raise ValueError if a PNG file holds fewer pixels than its header says.

    Decoders that do not mind make them black.
    """
    unpack, wanted, at = zlib.decompressobj(), layout.size_of_pixels(), len(SIGNATURE)
    while at + 12 <= len(data) and wanted > 0:
        (length,) = struct.unpack_from(">I", data, at)
        packed: bytes | memoryview = memoryview(data)[at + 8 : at + 8 + length]
        while data[at + 4 : at + 8] == b"IDAT" and packed and wanted > 0:
            wanted -= len(unpack.decompress(packed, _BLOCK))
            packed = unpack.unconsumed_tail
        at += 12 + length
    if wanted > 0:
        raise ValueError("the file holds fewer pixels than it says")


def ancillary(chunks: Iterable[Chunk], same_layout: bool) -> list[Chunk]:
    """What a file holds besides pixels and can be put into another with the same picture.

    Args:
        chunks: of the source.
        same_layout: colour type and depth stay.
    """
    dropped = _OF_PIXELS if same_layout else _OF_PIXELS | _OF_LAYOUT
    return [c for c in chunks if c.name[0] & 0x20 and c.name not in dropped]


def text_keyword(chunk: Chunk) -> str:
    """Keyword of a text chunk, else an empty string."""
    if chunk.name not in (b"tEXt", b"zTXt", b"iTXt"):
        return ""
    return chunk.data.split(b"\0", 1)[0].decode("latin-1")


def build(exif: bytes, icc: bytes, xmp: bytes, dpi: tuple[float, float] | None) -> list[Chunk]:
    """Chunks for metadata that came from another format; empty values give none."""
    chunks = []
    if icc:
        chunks.append(Chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if dpi:
        x, y = (round(d / 0.0254) for d in dpi)
        chunks.append(Chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if exif:
        chunks.append(Chunk(b"eXIf", exif))
    if xmp:
        chunks.append(Chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    return chunks


def splice(coded: memoryview, chunks: Iterable[Chunk], file: BinaryIO) -> None:
    """Write a coded picture with other ancillary chunks behind its header.

    Args:
        coded: a PNG file without ancillary chunks that matter.
        chunks: to put in.
        file: open for writing.
    """
    header = len(SIGNATURE) + 25
    file.write(coded[:header])
    for chunk in chunks:
        file.write(chunk.to_bytes())
    file.write(coded[header:])


def write_deep(samples: NDArray[np.uint16], chunks: Iterable[Chunk], file: BinaryIO) -> None:
    """Write a PNG file with 16 bits a sample.

    Args:
        samples: H x W x C with 1 to 4 channels.
        chunks: ancillary chunks.
        file: open for writing.
    """
    height, width, channels = samples.shape
    kind = _COLOUR_TYPE[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    file.write(SIGNATURE + Chunk(b"IHDR", header).to_bytes())
    for chunk in chunks:
        file.write(chunk.to_bytes())
    packer = zlib.compressobj(_LEVEL)
    for block in _filtered(samples):
        if packed := packer.compress(block):
            file.write(Chunk(b"IDAT", packed).to_bytes())
    file.write(Chunk(b"IDAT", packer.flush()).to_bytes())
    file.write(Chunk(b"IEND", b"").to_bytes())


def _filtered(samples: NDArray[Any]) -> Iterator[bytes]:
    """Blocks of rows, big-endian, each byte less the one above it (filter type 2)."""
    height, width, channels = samples.shape
    row = width * channels * 2
    above = np.zeros((1, row), np.uint8)
    count = max(1, _BLOCK // row)
    for top in range(0, height, count):
        rows = samples[top : top + count].astype(">u2").reshape(-1, width * channels)
        data = rows.view(np.uint8)
        filtered = np.full((len(data), row + 1), 2, np.uint8)
        np.subtract(data, np.concatenate([above, data[:-1]]), out=filtered[:, 1:])
        above = data[-1:]
        yield filtered.tobytes()
