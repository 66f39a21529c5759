"""The pictures to train on: all decoded in memory, or decoded anew each time they are drawn.

Both ways have the same pictures under the same numbers, so that examples do not depend on them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from d2s_cli.errors import InputError
from d2s_cli.images.finding import IMAGE_SUFFIXES

Picture = NDArray[np.uint8]
log = logging.getLogger(__name__)

#: what Pillow raises for files that it cannot decode
UNREADABLE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)
MIN_SIDE = 64


def load_photos(folders: Sequence[Path], min_side: int = MIN_SIDE) -> list[Picture]:
    """Decode every picture below the folders into memory, in sorted order.

    Unreadable and tiny files are named in a warning and skipped.

    Raises:
        InputError: no folder has a usable picture.
    """
    return [picture for _, picture in _readable(folders, min_side, keep=True)]


@dataclass(frozen=True)
class PictureFiles(Sequence[Picture]):
    """Pictures that are decoded when asked for. `find` makes them."""

    paths: tuple[Path, ...]

    @classmethod
    def find(cls, folders: Sequence[Path], min_side: int = MIN_SIDE) -> PictureFiles:
        """The files that `load_photos` would load. Each is decoded once, to know that it can be.

        Raises:
            InputError: no folder has a usable picture.
        """
        return cls(tuple(path for path, _ in _readable(folders, min_side, keep=False)))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        path = self.paths[index]
        try:
            return _decode(path)
        except UNREADABLE as error:
            raise InputError(
                f"{path} can no longer be read: {error}",
                "put it back and run the same command again, which goes on from the checkpoint",
            ) from error


def _decode(path: Path) -> Picture:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def _readable(folders: Sequence[Path], min_side: int, keep: bool) -> Iterator[tuple[Path, Picture]]:
    """Usable files, with their pictures, or empty arrays where these are not to be kept."""
    paths = sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    nothing = np.empty((0, 0, 3), np.uint8)

    def check(path: Path) -> Picture | None:
        try:
            picture = _decode(path)
        except UNREADABLE as error:
            log.warning("skipped %s: %s", path, error)
            return None
        if min(picture.shape[:2]) < min_side:
            log.warning("skipped %s: smaller than %d pixels", path, min_side)
            return None
        return picture if keep else nothing

    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(check, paths))
    found = [(path, one) for path, one in zip(paths, pictures, strict=True) if one is not None]
    if not found:
        raise InputError(
            f"no pictures to train on below {', '.join(map(str, folders))}",
            f"looked for: {' '.join(sorted(IMAGE_SUFFIXES))}, in subfolders too",
        )
    return iter(found)
