"""Which solver, step grid and number of steps is as good as walking the whole noise table?

Run from the repository root:

    python benchmarks/solver_ab.py ../shared/data/val --limit 32 --side 128 --tk 200

The reference takes every step from T_k down by the ancestral sampler, with two seeds. Every setting
refines the same crops, holes and fills (refine_quality.py makes them, and scores the results).

- change: a setting's score minus the mean of the reference's two; its 95 % interval is a bootstrap
  over crops.
- spread: how far the reference's two seeds are apart: root mean square of their difference over the
  same resampled sets of crops.

A setting holds where no score is worse than the reference's by more than the spread. With
--reference-seeds 1 nothing is known of the spread: a setting holds where no score's interval lies
on the worse side of 0. Results are kept in --cache: a run that was broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quality_parts.crops import Pictures, crop_paths, read_crops
from quality_parts.features import BATCH, features, load_feature_network, look_at
from quality_parts.fills import GUIDES, guide_results
from quality_parts.settings import Setting, parse_setting
from refine_quality import SCORES, Benchmark, Measured, refine_all

from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.diffusion.sampling import SAMPLERS
from d2s_cli.diffusion.schedule import SPACINGS
from d2s_cli.images.draw_masks import mat_mask
from d2s_cli.runtime import pick
from d2s_cli.weights.bundled import find_weights

#: the scores that a setting must hold
JUDGED = ("frechet", "texture", "perceptual", "psnr")
RESAMPLES = 400


@dataclass(frozen=True)
class Change:
    """A setting's score against the reference's.

    Attributes:
        value: score minus the mean of the reference's two seeds.
        low, high: 95 % interval of it, by resampled crops.
        spread: of the reference's seeds; None if it has only one.
        holds: not worse than the reference, see the module's text.
    """

    value: float
    low: float
    high: float
    spread: float | None
    holds: bool


def compare(
    name: str,
    reference: Sequence[Measured],
    new: Measured,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Change:
    """Judge one score of `new` against the reference on the same crops, a run for each seed."""
    rng = np.random.default_rng(seed)
    n = len(new.per_crop[name])

    def scores(rows: NDArray[np.intp] | None) -> NDArray[np.float64]:
        return np.array([run.score(name, rows) for run in (new, *reference)])

    drawn = np.stack([scores(rng.integers(n, size=n)) for _ in range(resamples)])
    value, *changes = (row[0] - row[1:].mean() for row in (scores(None), *drawn))
    low, high = np.quantile(changes, (0.025, 0.975))
    if len(reference) == 1:
        holds = high >= 0 if SCORES[name] else low <= 0
        return Change(float(value), float(low), float(high), None, bool(holds))
    spread = float(np.sqrt(np.square(drawn[:, 1] - drawn[:, 2]).mean()))
    worse = -value if SCORES[name] else value
    return Change(float(value), float(low), float(high), spread, bool(worse <= spread))


class Crops(Benchmark):
    """The middle of each crop, `args.side` wide and high, with one of MAT's holes."""

    def __init__(self, args: argparse.Namespace, refiner: Refiner) -> None:
        self.args, self.refiner = args, refiner
        self.paths = crop_paths(args.crops, args.limit)
        whole = read_crops(self.paths)
        first = (whole.shape[1] - args.side) // 2
        middle = slice(first, first + args.side)
        self.truths = np.ascontiguousarray(whole[:, middle, middle])
        rngs = (np.random.default_rng([args.seed, number]) for number in range(len(whole)))
        self.holes = np.stack([mat_mask(rng, args.side, args.holes) for rng in rngs])
        self.network = load_feature_network()
        self.seen = look_at(self.network, self.truths)
        self.truth = features(self.network, self.truths, None)


class Fills:
    """Refined results, each computed once and kept in a folder."""

    def __init__(self, benchmark: Benchmark, guides: Pictures, cache: Path, weights: Path) -> None:
        self.benchmark, self.guides, self.cache = benchmark, guides, cache
        parts = (benchmark.truths, benchmark.holes, guides)
        content = b"".join(part.tobytes() for part in parts) + weights.read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()[:12]

    def measure(self, setting: Setting, seed: int) -> Measured:
        name = hashlib.sha256(f"{setting.text} {seed}".encode()).hexdigest()[:12]
        path = self.cache / f"refined-{self.digest}-{name}.npz"
        if not path.is_file():
            benchmark = self.benchmark
            results, seconds = refine_all(
                benchmark.refiner, setting, benchmark.truths, benchmark.holes, self.guides, seed
            )
            self.cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part.npz")
            np.savez_compressed(partial, results=results, seconds=seconds)
            partial.replace(path)
        with np.load(path) as stored:
            return self.benchmark.measure(stored["results"], float(stored["seconds"]))


def settings_of(args: argparse.Namespace) -> Iterator[Setting]:
    """Every combination that was asked for, the fewest steps first."""
    for steps, spacing, sampler in itertools.product(args.steps, args.spacings, args.samplers):
        yield setting_of(args, f"steps={steps},sampler={sampler},spacing={spacing}")


def setting_of(args: argparse.Namespace, text: str) -> Setting:
    also = f",{args.also}" if args.also else ""
    return parse_setting(f"tk={args.tk},{text},inject={args.inject}{also}")


def row_of(setting: Setting, measured: Measured, reference: Sequence[Measured]) -> dict[str, Any]:
    changes = {name: compare(name, reference, measured) for name in JUDGED}
    return {
        "setting": setting.text,
        **{key: setting.arguments[key] for key in ("steps", "sampler", "spacing")},
        "scores": {name: measured.score(name) for name in JUDGED},
        "changes": {name: vars(change) for name, change in changes.items()},
        "holds": all(change.holds for change in changes.values()),
    }


def markdown_report(about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """A table with a line for the reference and for each setting."""
    lines = [
        "; ".join(f"{key} {value}" for key, value in about.items() if key != "reference"),
        "",
        f"| steps | sampler | grid | {' | '.join(JUDGED)} | holds |",
        "|" + "---|" * (len(JUDGED) + 4),
    ]
    seeds = [", ".join(f"{score:.4g}" for score in about["reference"][name]) for name in JUDGED]
    lines.append(f"| **all** | ddpm | time | {' | '.join(seeds)} | |")
    for row in rows:
        cells = [_cell(row["changes"][name]) for name in JUDGED]
        title = f"{row['steps']} | {row['sampler']} | {row['spacing']}"
        lines.append(f"| {title} | {' | '.join(cells)} | {'yes' if row['holds'] else 'no'} |")
    if rows and len(about["reference"][JUDGED[0]]) > 1:
        spreads = [f"{rows[0]['changes'][name]['spread']:.3g}" for name in JUDGED]
        lines.append(f"| | spread | | {' | '.join(spreads)} | |")
    return "\n".join(lines) + "\n"


def _cell(change: dict[str, Any]) -> str:
    text = f"{change['value']:+.3g} ({change['low']:+.3g} to {change['high']:+.3g})"
    return text if change["holds"] else f"_{text}_"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare solvers with walking the whole noise table."
    )
    add = parser.add_argument
    add("crops", type=Path, help="folder of 256 x 256 pictures, with or without list.txt")
    add("--weights", default="d2s-base", help="bundled name or file")
    add("--guide", choices=list(GUIDES), default="telea")
    add("--side", type=int, default=256, help="only the middle of each crop")
    add("--holes", choices=("small", "large"), default="small", help="of MAT's kind")
    add("--tk", type=int, default=200)
    add("--also", default="", help="for every setting, such as gain=1,correct=1")
    add("--inject", type=int, choices=(0, 1), default=0)
    add(
        "--samplers",
        nargs="+",
        choices=list(SAMPLERS),
        default=["dpmpp-sde", "dpmpp", "unipc", "ddim"],
    )
    add("--steps", nargs="+", type=int, default=[5, 10, 20, 8, 15])
    add("--spacings", nargs="+", choices=list(SPACINGS), default=list(SPACINGS))
    add("--limit", type=int, help="first crops only")
    add("--seed", type=int, default=0, help="of the holes, and of the settings' noise")
    add("--reference-seeds", type=int, choices=(1, 2), default=2)
    add("--cache", type=Path, default=Path("/tmp/d2s-guides"), help="results are kept here")
    add("--json", type=Path)
    add("--markdown", type=Path)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    refiner = load_refiner(args.weights, compute=pick("cpu", "auto"))
    benchmark = Crops(args, refiner)
    label = f"mat-{args.holes}-{args.seed}"
    guides, _ = guide_results(args.guide, benchmark.truths, benchmark.holes, args.cache, label)
    fills = Fills(benchmark, guides, args.cache, find_weights(args.weights))
    whole = setting_of(args, "sampler=ddpm")
    reference = [fills.measure(whole, args.seed + number) for number in range(args.reference_seeds)]
    about: dict[str, Any] = {
        "weights": str(args.weights),
        "crops": f"{len(benchmark.paths)} of {args.crops.name}, {args.side} x {args.side}",
        "guide": args.guide,
        "masks": f"mat-{args.holes}, hole share {benchmark.holes.mean():.3f}",
        "T_k": args.tk,
        "also": args.also or "nothing",
        "injection": "on" if args.inject else "off",
        "seed": args.seed,
        "batch": BATCH,
        "compute": str(refiner.compute),
        "reference": {n: [measured.score(n) for measured in reference] for n in JUDGED},
    }
    rows: list[dict[str, Any]] = []
    for setting in settings_of(args):
        rows.append(row_of(setting, fills.measure(setting, args.seed), reference))
        cells = "  ".join(f"{name} {_cell(rows[-1]['changes'][name])}" for name in JUDGED)
        print(f"{setting.text}: {cells}  {rows[-1]['holds']}", flush=True)
        if args.json:
            args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        if args.markdown:
            args.markdown.write_text(markdown_report(about, rows))


if __name__ == "__main__":
    main()
