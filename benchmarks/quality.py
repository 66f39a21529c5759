"""How good are results of d2s? Every guide alone and as `d2s inpaint` leaves it, by size of hole.

Run from the repository root:

    python benchmarks/quality.py ../shared/data/val --part rows sheets
    python benchmarks/quality.py ../shared/data/val --part ablations

- rows: guides alone and refined; scores, changes, and whether the targets are met.
- ablations: settings of the refiner, one changed at a time.
- sheets: pictures of the best and the worst results for docs/results.md; follows rows.
- tables: nothing is measured; quality.md is written anew from quality.json.

Results come from `d2s_cli.inpaint`, as a user gets them, and are kept in --cache: only what was
made with other weights, masks or settings is made again. Delete the folder after a change of d2s
itself. The tables between the markers of quality.md are written here, the text around them is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quality_parts import ablations
from quality_parts.chains import Chain, chains_of, remember_patchmatch, results_of
from quality_parts.claims import AUTO_BEATS, claims_of
from quality_parts.crops import ALL_SIZES, HOLE_KINDS, SIZES, CropSet, crop_set, mixed_set
from quality_parts.crops import joined as joined_crops
from quality_parts.judge import SCORES, Judge, Judged, change, joined, with_interval
from quality_parts.sheets import Shown, credits_table, read_sources, write_sheets
from quality_parts.tables import (
    ablations_section,
    empty_page,
    insert,
    rounded,
    rows_section,
    targets_section,
)

from d2s_cli import __version__
from d2s_cli.guides.correctors import corrector_files
from d2s_cli.manifest import file_record
from d2s_cli.runtime import pick
from d2s_cli.weights.bundled import DEFAULT_WEIGHTS, find_weights

HERE = Path(__file__).resolve().parent
GUIDES = ("telea", "ns", "patchmatch", "neural", "auto")
PARTS = ("rows", "ablations", "sheets", "tables")
ABLATION_CROPS = 40
#: of quality.md
SECTIONS = ("targets", "rows", "ablations")
#: guides whose results docs/results.md shows
SHOWN = ("auto", "telea")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("crops", type=Path, help="folder of 256 x 256 pictures, with or without list.txt")
    add("--part", nargs="+", choices=PARTS, default=["rows"])
    add("--limit", type=int, help="crops for each kind of hole (default: every third picture)")
    add("--ablation-crops", type=int, default=ABLATION_CROPS)
    add("--guides", nargs="+", default=list(GUIDES))
    add("--holes", nargs="+", choices=list(HOLE_KINDS), default=list(HOLE_KINDS))
    add("--seed", type=int, default=0, help="of the holes")
    add("--cache", type=Path, default=Path("/tmp/d2s-quality"), help="results are kept here")
    add("--json", type=Path, default=HERE / "quality.json")
    add("--markdown", type=Path, default=HERE / "quality.md", help="its tables are replaced")
    add("--docs", type=Path, default=HERE.parent / "docs", help="for results.md and sheets/")
    add("--sources", type=Path, help="CSV of authors and licences (default: beside the folder)")
    return parser


class Benchmark:
    """What the parts of one run share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.judge = Judge(args.cache)
        remember_patchmatch(args.cache)

    def measure(self, chain: Chain, crops: CropSet) -> Judged:
        start = time.monotonic()
        results, made = results_of(chain, crops, self.args.cache)
        judged = self.judge.judge(results, crops)
        scores = "  ".join(f"{name} {judged.score(name):.4g}" for name in SCORES)
        took = time.monotonic() - start
        print(
            f"{crops.name}, {chain.guide} {chain.label}: {scores}"
            f"  ({len(made)} of {len(crops.paths)} made, {took:.0f} s)",
            flush=True,
        )
        return judged

    def about(self, crops: str, files: Sequence[Path]) -> dict[str, Any]:
        """What the figures depend on; `files` are the weights."""
        folder = self.args.crops.resolve()
        weights = [f"{path.name} {file_record(path)['sha256'][:12]}" for path in files]
        return {
            "d2s": __version__,
            "weights": ", ".join(weights),
            "crops": f"{crops} of {folder.parent.name}/{folder.name}",
            "seed": self.args.seed,
            "device": str(pick("auto", "auto")),
        }


# --- rows -----------------------------------------------------------------------------------------


def run_rows(benchmark: Benchmark) -> dict[str, Any]:
    """Every guide alone and refined, for every kind of hole, and for all sizes together."""
    args = benchmark.args
    sets = [crop_set(args.crops, name, args.limit, args.seed) for name in args.holes]
    measured: dict[str, dict[tuple[str, str], Judged]] = {}
    chains = {guide: chains_of(guide) for guide in args.guides}
    rows: list[dict[str, Any]] = []
    for crops in sets:
        found = {
            (guide, chain.label): benchmark.measure(chain, crops)
            for guide, pair in chains.items()
            for chain in pair
        }
        measured[crops.name] = found
        rows += rows_of(crops, found)
    if all(name in measured for name in SIZES):
        crops = joined_crops([one for one in sets if one.name in SIZES], ALL_SIZES)
        found = {key: joined([measured[name][key] for name in SIZES]) for key in measured[SIZES[0]]}
        rows += rows_of(crops, found)
    pids = max(one.published_pids for found in measured.values() for one in found.values())
    files = [find_weights(DEFAULT_WEIGHTS), *corrector_files()]
    about = benchmark.about(f"{sum(len(one.paths) for one in sets)} with holes", files)
    about["largest P-IDS of a set as published"] = f"{100 * pids:.1f} %"
    return {"about": about, "rows": rows}


def rows_of(crops: CropSet, found: dict[tuple[str, str], Judged]) -> list[dict[str, Any]]:
    """Rows of one kind of hole as quality.json holds them."""
    rows = []
    alone = {guide: judged for (guide, label), judged in found.items() if label == "alone"}
    for (guide, label), judged in found.items():
        row: dict[str, Any] = {
            "holes": crops.name,
            "crops": len(crops.paths),
            "share": float(crops.holes.mean()),
            "guide": guide,
            "label": label,
            "scores": {name: with_interval(judged, name) for name in SCORES},
        }
        if label != "alone":
            row["change"] = changes(alone[guide], judged)
            if guide == "auto":
                row["against"] = {
                    other: changes(alone[other], judged) for other in AUTO_BEATS if other in alone
                }
        rows.append(row)
    return rows


def changes(base: Judged, new: Judged) -> dict[str, tuple[float, float]]:
    return {name: change(base, new, name) for name in SCORES}


# --- ablations ------------------------------------------------------------------------------------


def run_ablations(benchmark: Benchmark) -> dict[str, Any]:
    """Every group of settings, compared with the group's first."""
    args = benchmark.args
    crops = mixed_set(args.crops, "ablations", ablations.HOLES, args.ablation_crops, args.seed)
    groups, measured = [], {}
    for title, chains in ablations.groups():
        rows: list[dict[str, Any]] = []
        for chain in chains:
            if chain.folder_name not in measured:
                measured[chain.folder_name] = benchmark.measure(chain, crops)
            judged = measured[chain.folder_name]
            row: dict[str, Any] = {
                "label": chain.label,
                "scores": {name: with_interval(judged, name) for name in SCORES},
            }
            if rows:
                row["change"] = changes(measured[chains[0].folder_name], judged)
            rows.append(row)
        groups.append({"title": title, "rows": rows})
    about = benchmark.about(f"{len(crops.paths)}", [find_weights(DEFAULT_WEIGHTS)])
    about |= {"holes": ablations.HOLES, "guide": f"{ablations.GUIDE}, not corrected"}
    return {"about": about, "groups": groups}


# --- sheets ---------------------------------------------------------------------------------------


def run_sheets(benchmark: Benchmark) -> None:
    """The best and the worst results as pictures, and their credits in docs/results.md."""
    args = benchmark.args
    folder = args.crops.resolve()
    sources = read_sources(args.sources or folder.parent / "sources.csv", folder.name)
    sets = [crop_set(args.crops, name, args.limit, args.seed) for name in SIZES]
    paths = []
    for guide in SHOWN:
        alone, final = chains_of(guide)
        judged = joined([benchmark.measure(final, crops) for crops in sets])
        pictures = [
            np.concatenate([results_of(chain, crops, args.cache)[0] for crops in sets])
            for chain in (alone, final)
        ]
        shown = Shown(
            guide, joined_crops(sets, ALL_SIZES), *pictures, judged.per_crop["perceptual"]
        )
        paths += write_sheets(shown, sources, args.docs / "sheets")
    page = args.docs / "results.md"
    text = page.read_text() if page.is_file() else empty_page("credits")
    page.write_text(insert(text, "credits", credits_table(paths, sources)))


# --- the run --------------------------------------------------------------------------------------


def write_report(args: argparse.Namespace, data: dict[str, Any]) -> None:
    """quality.json, and the tables of quality.md."""
    args.json.write_text(json.dumps(rounded(data), indent=1) + "\n")
    text = args.markdown.read_text() if args.markdown.is_file() else empty_page(*SECTIONS)
    if "rows" in data:
        text = insert(text, "targets", targets_section(data["rows"]))
        text = insert(text, "rows", rows_section(data["rows"]))
    if "ablations" in data:
        text = insert(text, "ablations", ablations_section(data["ablations"]))
    args.markdown.write_text(text)


def print_verdicts(data: dict[str, Any]) -> None:
    for claim in claims_of(data["rows"]["rows"]):
        print(
            f"{claim.what} {claim.row}, {claim.holes}, {claim.score}:"
            f" {claim.change:+.1f} ± {claim.half:.1f} %, {claim.verdict}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    data = json.loads(args.json.read_text()) if args.json.is_file() else {}
    if set(args.part) != {"tables"}:
        benchmark = Benchmark(args)
    if "rows" in args.part:
        data["rows"] = run_rows(benchmark)
        print_verdicts(data)
    if "ablations" in args.part:
        data["ablations"] = run_ablations(benchmark)
    write_report(args, data)
    if "sheets" in args.part:
        run_sheets(benchmark)


if __name__ == "__main__":
    main()
