"""How far can copied texture get? PatchMatch's results changed in ways that need no training.

    python benchmarks/patchmatch_limits.py ../shared/data/val --limit 20

Prints Frechet and perceptual distance (EfficientNet-Lite0) against PatchMatch alone, on crops with
holes of 5 to 50 % (`--limit` of each of three sizes). Some rows use the truth: they are bounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from patchmatch import patch_match
from quality_parts.crops import SIZES, CropSet, Holes, Pictures, crop_set, joined
from quality_parts.judge import Judge, Judged, change

from d2s_cli.guides.correctors import load_corrector
from d2s_cli.guides.on_photo import correct_windows
from d2s_cli.guides.patchmatch import PATCH_RADIUS

SEEDS = 4
#: deviations of the blur, pixels, that parts coarse colours (the truth's) from texture (copied)
COARSE = (4.0, 8.0, 16.0)
#: blur of the picture that leads PatchMatch, pixels, and the weight of its distance
LEAD_BLUR, LEAD_WEIGHT = 3.0, 0.1


def copied(picture: Pictures, hole: Holes, seed: int = 0, radius: int = PATCH_RADIUS) -> Pictures:
    patch_match.set_random_seed(seed)
    mask = hole.astype(np.uint8) * 255
    return np.asarray(patch_match.inpaint(picture, mask, patch_size=radius))


def copied_with_mirror(picture: Pictures, hole: Holes) -> Pictures:
    """With the mirrored picture beside it, to copy from too."""
    both = np.concatenate([picture, picture[:, ::-1]], 1)
    none = np.zeros_like(hole)
    patch_match.set_random_seed(0)
    filled = patch_match.inpaint(
        both,
        np.concatenate([hole, none], 1).astype(np.uint8) * 255,
        global_mask=np.concatenate([none, hole[:, ::-1]], 1).astype(np.uint8) * 255,
        patch_size=PATCH_RADIUS,
    )
    return np.asarray(filled[:, : picture.shape[1]])


def led(picture: Pictures, hole: Holes, lead: Pictures) -> Pictures:
    """Copies from where the blurred `lead` has the lightness and red-green of the hole's."""
    colours = cv2.cvtColor(cv2.GaussianBlur(lead, (0, 0), LEAD_BLUR), cv2.COLOR_RGB2LAB)
    # differences of these numbers are taken round a circle of length 1
    coordinates = np.ascontiguousarray(colours.astype(np.float32) / 510)
    patch_match.set_random_seed(0)
    filled = patch_match.inpaint_regularity(
        picture,
        hole.astype(np.uint8) * 255,
        coordinates,
        patch_size=PATCH_RADIUS,
        guide_weight=LEAD_WEIGHT,
    )
    return np.asarray(filled)


def with_coarse_colours(fill: Pictures, truth: Pictures, hole: Holes, blur: float) -> Pictures:
    """The fill's texture on the truth's blurred colours."""
    ours, theirs = (cv2.GaussianBlur(x.astype(np.float32), (0, 0), blur) for x in (fill, truth))
    mixed = np.rint(np.clip(fill - ours + theirs, 0, 255)).astype(np.uint8)
    return np.where(hole[..., None], mixed, truth)


def variants(crops: CropSet, judge: Judge) -> Iterator[tuple[str, Pictures]]:
    """Names and results, the first of them PatchMatch's own."""

    def each(fill: Callable[[Pictures, Holes, int], Pictures]) -> Pictures:
        results = [
            np.where(hole[..., None], fill(np.where(hole[..., None], np.uint8(0), t), hole, i), t)
            for i, (t, hole) in enumerate(zip(crops.truths, crops.holes, strict=True))
        ]
        return np.stack(results)

    plain = each(lambda p, hole, i: copied(p, hole))
    yield "PatchMatch", plain
    seeds = [plain, *(each(lambda p, hole, i, s=s: copied(p, hole, s)) for s in range(1, SEEDS))]
    distances = np.stack([judge.judge(one, crops).per_crop["perceptual"] for one in seeds])
    yield (
        f"the best of {SEEDS} by the truth",
        np.stack([seeds[k][i] for i, k in enumerate(distances.argmin(0))]),
    )
    for radius in (2, 4):
        side = 2 * radius + 1
        yield f"patches of {side} pixels", each(lambda p, hole, i, r=radius: copied(p, hole, 0, r))
    yield "with the mirrored picture", each(lambda p, hole, i: copied_with_mirror(p, hole))
    views = list(zip(crops.truths, crops.holes, plain, strict=True))
    corrected = np.stack(correct_windows(load_corrector("patchmatch"), views))
    yield "corrected", corrected
    yield "led by the corrected result", each(lambda p, hole, i: led(p, hole, corrected[i]))
    yield "led by the truth", each(lambda p, hole, i: led(p, hole, crops.truths[i]))
    for blur in COARSE:
        mixed = [
            with_coarse_colours(*one, blur)
            for one in zip(plain, crops.truths, crops.holes, strict=True)
        ]
        yield f"on the truth's colours, blurred by {blur:g} pixels", np.stack(mixed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("crops", type=Path, help="folder of 256 x 256 pictures")
    parser.add_argument("--limit", type=int, default=20, help="crops for each size of hole")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/d2s-limits"))
    args = parser.parse_args()
    parts = [crop_set(args.crops, name, args.limit, 0) for name in SIZES]
    crops, judge = joined(parts, "limits"), Judge(args.cache)
    base: Judged | None = None
    for name, results in variants(crops, judge):
        found = judge.judge(results, crops)
        base = base or found
        cells = [f"{name:42}"]
        for score in ("frechet", "perceptual"):
            more, half = change(base, found, score)
            cells.append(f"{score} {found.score(score):.4g} ({more:+.1f} ± {half:.1f} %)")
        print("  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
