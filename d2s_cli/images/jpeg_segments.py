"""The segments of JPEG files: read, built, and put into a file that was coded without them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

SOI, SOS, APP0, APP1, APP2, APP14, COM = 0xD8, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
#: headers of pictures in arithmetic coding
ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB})
EXIF_HEADER = b"Exif\0\0"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
ICC_HEADER = b"ICC_PROFILE\0"
#: further pictures of one file, found by their distance from here, which does not stay
MPF_HEADER = b"MPF\0"
#: largest payload of a segment
LARGEST = 65533


@dataclass(frozen=True)
class Segment:
    """A marker (its second byte) and the bytes that follow its length."""

    marker: int
    data: bytes

    def to_bytes(self) -> bytes:
        return struct.pack(">BBH", 0xFF, self.marker, len(self.data) + 2) + self.data


def read_head(data: bytes) -> tuple[list[Segment], int]:
    """The segments before the pixels, and where the first scan begins.

    Raises:
        ValueError: no JPEG, or cut off before the pixels.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG signature")
    segments: list[Segment] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == SOS:
            return segments, at
        (length,) = struct.unpack_from(">H", data, at + 2)
        segments.append(Segment(marker, data[at + 4 : at + 2 + length]))
        at += 2 + length
    raise ValueError("the file is truncated or damaged before its pixels")


def is_metadata(segment: Segment) -> bool:
    """True for what says nothing about how the pixels are coded."""
    if segment.marker == APP2 and segment.data.startswith(MPF_HEADER):
        return False
    application = APP0 <= segment.marker <= 0xEF and segment.marker != APP14
    return application or segment.marker == COM


def build(exif: bytes, icc: bytes, xmp: bytes) -> list[Segment]:
    """Segments for metadata that came from another format; empty values give none.

    Raises:
        ValueError: EXIF or XMP larger than a segment.
    """
    segments = []
    for name, header, block in (("EXIF", EXIF_HEADER, exif), ("XMP", XMP_HEADER, xmp)):
        if len(header + block) > LARGEST:
            raise ValueError(f"{name} of {len(block)} bytes does not fit into a JPEG file")
        if block:
            segments.append(Segment(APP1, header + block))
    size = LARGEST - len(ICC_HEADER) - 2
    parts = [icc[at : at + size] for at in range(0, len(icc), size)]
    for number, part in enumerate(parts):
        head = ICC_HEADER + bytes([number + 1, len(parts)])
        segments.append(Segment(APP2, head + part))
    return segments


def splice(coded: bytes, segments: Iterable[Segment], file: BinaryIO) -> None:
    """Write a coded picture with other metadata.

    Args:
        coded: a JPEG file.
        segments: metadata to put in; a JFIF segment among them replaces the file's own.
        file: open for writing.
    """
    own, scan = read_head(coded)
    given = list(segments)
    first = [s for s in given if s.marker == APP0]
    file.write(b"\xff\xd8")
    for segment in first or [s for s in own if s.marker == APP0]:
        file.write(segment.to_bytes())
    for segment in given:
        if segment.marker != APP0:
            file.write(segment.to_bytes())
    for segment in own:
        if not is_metadata(segment):
            file.write(segment.to_bytes())
    file.write(memoryview(coded)[scan:])
