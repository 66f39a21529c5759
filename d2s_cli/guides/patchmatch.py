"""PatchMatch: fills the hole with patches found elsewhere in the picture (PyPatchMatch)."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import WeightsError
from d2s_cli.guides.contract import PictureGuide

#: radius of the compared patches: (2 r + 1) squared pixels
PATCH_RADIUS = 3
#: the library's seed is one for the whole process
_lock = threading.Lock()


def _patchmatch_fill(picture: NDArray[Any], hole: NDArray[np.bool_], seed: int) -> NDArray[Any]:
    from patchmatch import patch_match

    with _lock:
        patch_match.set_random_seed(seed)
        filled = patch_match.inpaint(picture, hole.astype(np.uint8) * 255, patch_size=PATCH_RADIUS)
    return np.asarray(filled)


def patchmatch_available() -> bool:
    """True if the library and its compiled part are on this machine."""
    try:
        from patchmatch import patch_match
    except ImportError:
        return False
    return bool(patch_match.patchmatch_available)


def patchmatch_guide() -> PictureGuide:
    if not patchmatch_available():
        raise WeightsError(
            "guide patchmatch is not usable: the package pypatchmatch is missing or does not load",
            "try: pip install pypatchmatch, or --guide telea",
        )
    return PictureGuide("patchmatch", _patchmatch_fill, prefers_whole_picture=True)
