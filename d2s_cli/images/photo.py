"""A picture in memory: its samples as the file stores them, and a view of them as upright RGB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s_cli.images.colour import to_rgb
from d2s_cli.images.metadata import Metadata

#: what makes stored pixels upright, by EXIF orientation; each gives a view
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}
#: orientations that another one undoes; the rest undo themselves
_INVERSE = {6: 8, 8: 6}
ORIENTATIONS = frozenset({1, *_UPRIGHT})


def upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of stored pixels (H x W or H x W x C) as they are to be looked at."""
    turn = _UPRIGHT.get(orientation)
    return turn(stored) if turn else stored


def as_stored(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """What `upright` was given: a view of upright pixels as the file stores them."""
    return upright(array, _INVERSE.get(orientation, orientation))


@dataclass(frozen=True)
class JpegCoding:
    """How a JPEG file was coded, so that it can be written the same way.

    Attributes:
        tables: quantisation tables in the order of the components, 64 numbers each.
        subsampling: 0 (4:4:4), 1 (4:2:2), 2 (4:2:0), or -1 for anything else.
        progressive: scans of rising detail.
        keep_rgb: components are red, green and blue, not luminance and chrominance.
    """

    tables: list[list[int]]
    subsampling: int
    progressive: bool
    keep_rgb: bool


@dataclass(frozen=True)
class TiffCoding:
    """How a TIFF file was coded, so that it can be written the same way.

    Attributes:
        order: byte order, "<" or ">".
        compressed: in any way.
        extra: TIFF's meaning of a last channel that is no colour; 1 premultiplied, 2 plain alpha.
    """

    order: str
    compressed: bool
    extra: int


@dataclass
class Photo:
    """One picture in memory.

    Attributes:
        path: where it came from.
        samples: stored (not turned) H x W x C, uint8 or uint16; never written to.
        kind: what the channels are, a key of colour.CHANNELS.
        format: Pillow's name of the file's format.
        orientation: EXIF value, 1 for upright.
        metadata: all that is in the file besides pixels.
        jpeg: how a JPEG source was coded.
        tiff: how a TIFF source was coded.
        lossy_webp: a WebP source that was coded with loss.
        notes: what could not be kept, for the report.
    """

    path: Path
    samples: NDArray[Any]
    kind: str
    format: str
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    jpeg: JpegCoding | None = None
    tiff: TiffCoding | None = None
    lossy_webp: bool = False
    notes: list[str] = field(default_factory=list)

    @cached_property
    def rgb(self) -> NDArray[Any]:
        """Upright H x W x 3 of the samples' type; a view where the samples allow it."""
        return upright(to_rgb(self.samples, self.kind, self.metadata.icc), self.orientation)

    @property
    def size(self) -> tuple[int, int]:
        """Upright width and height."""
        height, width = upright(self.samples, self.orientation).shape[:2]
        return width, height

    def note(self, text: str) -> None:
        """Say once what could not be kept."""
        if text not in self.notes:
            self.notes.append(text)
