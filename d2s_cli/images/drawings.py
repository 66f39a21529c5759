"""Pictures that d2s makes itself (masks, previews, sheets): 8-bit files without metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2s_cli.errors import InputError
from d2s_cli.images.codec import LOSSLESS, format_of, write_photo


def write_drawing(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write H x W (grey) or H x W x 3 (RGB); the name appears when whole.

    Raises:
        InputError: no known format by that name, or it cannot be written.
    """
    write_photo(Image.fromarray(pixels), path)


def check_lossless(path: Path) -> None:
    """Raise InputError for a format that would blur the edge of a mask."""
    if format_of(path) not in LOSSLESS:
        raise InputError(
            f"a mask as {path.suffix} would not stay black and white: {path}",
            f"try: {path.with_suffix('.png')}",
        )
