"""Pictures that d2s makes itself (masks, previews, sheets): 8-bit files without metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import InputError
from d2s_cli.images.formats import is_lossless
from d2s_cli.images.photo import Photo
from d2s_cli.images.writing import write_photo


def write_drawing(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write H x W (grey) or H x W x 3 (RGB); the name appears when whole.

    Raises:
        InputError: no known format by that name, or it cannot be written.
    """
    samples = pixels if pixels.ndim == 3 else pixels[..., None]
    kind = "RGB" if samples.shape[2] == 3 else "L"
    write_photo(Photo(path, samples, kind, "PNG"), samples, path)


def check_lossless(path: Path) -> None:
    """Raise InputError for a format that would blur the edge of a mask."""
    if not is_lossless(path, None):
        raise InputError(
            f"a mask as {path.suffix} would not stay black and white: {path}",
            f"try: {path.with_suffix('.png')}",
        )
