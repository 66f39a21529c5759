"""What refine_quality.py refines: guides' results, and soft pictures made from the truth."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from d2s_cli.guides.opencv import opencv_fill
from d2s_cli.guides.patchmatch import PATCH_RADIUS
from d2s_cli.guides.registry import load_guide
from d2s_cli.images.convert import from_unit_range, to_unit_range
from quality_parts.crops import SIDE, Holes, Pictures


def _patchmatch(truth: Pictures, hole: Holes) -> Pictures:
    from patchmatch import patch_match

    filled = patch_match.inpaint(truth, hole.astype(np.uint8) * 255, patch_size=PATCH_RADIUS)
    return np.asarray(filled)


def _blur(truth: Pictures, hole: Holes) -> Pictures:
    return np.asarray(cv2.GaussianBlur(truth, (0, 0), 3.0), np.uint8)


def _down4(truth: Pictures, hole: Holes) -> Pictures:
    small = cv2.resize(truth, (SIDE // 4, SIDE // 4), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


def _neural(truth: Pictures, hole: Holes, first: str) -> Pictures:
    guide = load_guide("neural", os.environ.get("D2S_NEURAL_GUIDE"), first=first)
    image = to_unit_range(truth[None])
    filled = guide(image, torch.from_numpy(hole)[None, None].float())
    return np.asarray(from_unit_range(filled)[0])


#: picture and hole to filled picture
GUIDES: dict[str, Callable[[Pictures, Holes], Any]] = {
    "telea": lambda picture, hole: opencv_fill(picture, hole, "telea"),
    "ns": lambda picture, hole: opencv_fill(picture, hole, "ns"),
    "patchmatch": _patchmatch,
    "neural": lambda picture, hole: _neural(picture, hole, "patchmatch"),
    "neural-alone": lambda picture, hole: _neural(picture, hole, "none"),
    "blur": _blur,
    "down4": _down4,
}
#: these stand for soft results of an unknown tool and are made from the truth
FROM_TRUTH = frozenset({"blur", "down4"})


def fill(guide: str, truth: Pictures, hole: Holes) -> Pictures:
    """One crop's result; honest guides see zeros in the hole, known pixels stay exact."""
    seen = truth if guide in FROM_TRUTH else np.where(hole[..., None], np.uint8(0), truth)
    return np.where(hole[..., None], GUIDES[guide](seen, hole), truth)


def guide_results(
    guide: str, truths: Pictures, holes: Holes, cache: Path, label: str
) -> tuple[Pictures, float]:
    """Results and seconds a crop; kept in `cache` under a digest of the pixels and holes."""
    content = truths.tobytes() + np.packbits(holes).tobytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    variant = f"{guide}{PATCH_RADIUS}" if guide == "patchmatch" else guide
    path = cache / f"{variant}-{label}-{digest}.npz"
    if path.is_file():
        with np.load(path) as stored:
            return stored["results"], float(stored["seconds"])
    start = time.perf_counter()
    results = np.stack([fill(guide, t, h) for t, h in zip(truths, holes, strict=True)])
    seconds = (time.perf_counter() - start) / len(truths)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.npz")
    np.savez_compressed(partial, results=results, seconds=seconds)
    partial.replace(path)
    return results, seconds
