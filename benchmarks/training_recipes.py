"""Is the preset `modern` of `d2s train` well chosen? Recipes that differ from it in one thing each.

Run from the repository root:

    python benchmarks/training_recipes.py train/ faces/ --val ../shared/data/val

Every recipe trains the preset's network from nothing for --images crops with the seed of the
preset's own run; then its averaged weights are judged on held-out pictures:

- error of x_0: mean squared error of the estimate of x_0 (pixels in [-1, 1], not clipped) in the
  hole, mean over pictures, at fixed noise levels. Either prediction gives such an estimate
  (Refiner.predict_x0), so that recipes compare whatever their network predicts and their loss was.
- PSNR, L1 and seam of Telea's fills, refined as `d2s train --val` does.

The preset is trained with a second seed, too: only what differs from it by more than its two runs
from each other is called better or worse. Speed is timed apart, step by step in turn, since what
else the machine does would change it from run to run.

Numbers are kept in --json: a recipe that has some for the same settings is not trained again.
`--only` without names measures nothing and writes the table anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quality_parts.tables import about_line, empty_page, insert, rounded, table

from d2s_cli import __version__
from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNetConfig
from d2s_cli.runtime import Compute, pick
from d2s_cli.training.pictures import Picture, load_photos
from d2s_cli.training.refiner import MODERN, Drawing, RefinerTrainer, TrainConfig
from d2s_cli.training.run import ALONE
from d2s_cli.training.validation import COUNT, Validation

HERE = Path(__file__).resolve().parent
IMAGES = 960
#: share of the run at whose end the learning rate falls to 0
COOLDOWN = 0.2
#: steps of the 1000-step table at whose noise levels the error of x_0 is measured
STEPS = (25, 50, 100, 200, 400)
#: those of them that refining begins from or passes at the defaults
REFINING = (25, 50, 100, 200)
#: of --rounds, so that no first call's preparations are timed
UNTIMED = 1
#: what changes the arithmetic of a step, and so is timed; all else costs what the preset costs
COSTLY = ("batch", "precision", "unet", "sizes")
#: names of scores -> heads of their columns; PSNR alone is better where it is larger
SCORES = {
    **{str(step): f"error at {step}" for step in STEPS},
    "error": "mean of 25-200",
    "psnr": "PSNR",
    "l1": "L1",
    "seam": "seam",
}
BASE, AGAIN = "modern", "seed-1"


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    Attributes:
        what: differs from the preset.
        precision: as --precision of d2s.
    """

    name: str
    what: str
    config: TrainConfig
    precision: str = "auto"


def shortened(preset: TrainConfig, images: int) -> TrainConfig:
    """The preset for a short run: warm-up and half-life of the average keep their shares of it."""
    share = images / preset.images
    return dataclasses.replace(
        preset,
        images=images,
        warmup=round(preset.warmup * share),
        cooldown=round(COOLDOWN * images),
        ema_halflife=preset.ema_halflife * share,
    )


def recipes(base: TrainConfig) -> list[Recipe]:
    """The preset, and what differs from it in one thing, the most wanted first."""

    def recipe(name: str, what: str, precision: str = "auto", **changes: Any) -> Recipe:
        return Recipe(name, what, dataclasses.replace(base, **changes), precision)

    rate, batch, width = base.learning_rate, base.batch, base.unet.inner_channels
    only_smallest = {"sizes": base.sizes[:1], "size_shares": (1.0,)}

    def wide(channels: int) -> UNetConfig:
        return dataclasses.replace(base.unet, inner_channels=channels)

    return [
        recipe(BASE, "the preset"),
        recipe(AGAIN, "the preset with another seed", seed=base.seed + 1),
        recipe("rate-half", f"learning rate {rate / 2:g}, not {rate:g}", learning_rate=rate / 2),
        recipe("rate-double", f"learning rate {rate * 2:g}", learning_rate=rate * 2),
        recipe("batch-half", f"batch {batch // 2}, not {batch}", batch=batch // 2),
        recipe("batch-double", f"batch {batch * 2}", batch=batch * 2),
        recipe("min-snr-5", "min-SNR weights, gamma 5", min_snr=5.0),
        recipe("cosine", "cosine, not constant and cool-down", lr_schedule="cosine", cooldown=0),
        recipe("all-levels", "noise levels even over the whole table", tk_max=None, tk_power=1.0),
        recipe("even-levels", f"noise levels even over steps 1 to {base.tk_max}", tk_power=1.0),
        recipe("eps", "predicts eps, not v", prediction="eps"),
        recipe("width-half", f"inner {width // 2}, not {width}", unet=wide(width // 2)),
        recipe("width-more", f"inner {width * 3 // 2}", unet=wide(width * 3 // 2)),
        recipe("small-crops", f"crops of {base.sizes[0]} alone", **only_smallest),
        recipe("per-picture", "loss per picture, not per pixel of hole", per_hole=False),
        recipe("no-warmup", "no warm-up", warmup=0),
        recipe("no-cooldown", "no cool-down", cooldown=0),
        recipe("fp32", "float32, not bf16", precision="fp32"),
    ]


# --- training and judging -------------------------------------------------------------------------


def settings_of(recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    """All that a recipe's numbers depend on, as JSON has it."""
    settings = {
        "recipe": dataclasses.asdict(recipe.config),
        "precision": recipe.precision,
        "folders": [folder.name for folder in args.folders],
        "val": args.val.name,
        "compute": str(pick("cpu", "auto")),
    }
    kept: dict[str, Any] = json.loads(json.dumps(settings))
    return kept


def trained(recipe: Recipe, photos: Sequence[Picture], folder: Path) -> RefinerTrainer:
    """Train in the folder, or read what was trained there to the end."""
    trainer = RefinerTrainer(recipe.config, folder, pick("cpu", recipe.precision))
    if trainer.resume():
        return trainer
    draw = Drawing(photos, recipe.config, ALONE)
    while trainer.images < recipe.config.images:
        trainer.step(draw(trainer.step_number))
    trainer.save()
    return trainer


class Judge:
    """Scores of averaged weights on held-out pictures, in the number format that is the default."""

    def __init__(self, held_out: Sequence[Picture], base: TrainConfig) -> None:
        self.levels = [NoiseTable(1000).at(step) for step in STEPS]
        self.validation = Validation(held_out, base.sizes[0], base.masks, base.data, self.levels)

    def scores(self, trainer: RefinerTrainer) -> dict[str, float]:
        averaged = trainer.averaged()
        refiner = Refiner(averaged.unet, averaged.config, pick("cpu", "auto"))
        values = self.validation.values(refiner)
        prediction = refiner.config.prediction
        errors = {
            str(step): loss * x0_factor(level, prediction)
            for step, level, loss in zip(
                STEPS, self.levels, values["loss_at"].values(), strict=True
            )
        }
        mean = float(np.exp(np.mean([math.log(errors[str(step)]) for step in REFINING])))
        return {**errors, "error": mean, **{name: values[name] for name in ("psnr", "l1", "seam")}}


def x0_factor(alpha_bar: float, prediction: str) -> float:
    """Squared error of the estimate of x_0 for a squared error of 1 of what is predicted.

    x_0 = (x_t - s eps) / a = a x_t - s v.
    """
    return (1 - alpha_bar) / (alpha_bar if prediction == "eps" else 1.0)


# --- speed ----------------------------------------------------------------------------------------


def timed(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The preset, and what does other arithmetic than it."""
    base = recipes[0]
    return [
        recipe
        for recipe in recipes
        if recipe is base or any(_field(recipe, name) != _field(base, name) for name in COSTLY)
    ]


def _field(recipe: Recipe, name: str) -> Any:
    return recipe.precision if name == "precision" else getattr(recipe.config, name)


def seconds_a_crop(
    recipes: Sequence[Recipe], photos: Sequence[Picture], rounds: int, folder: Path
) -> dict[str, float]:
    """Processor time of a crop's training, by recipe; all take a step in each round.

    Time that other programs have the core for does not count.
    """
    trainers = [RefinerTrainer(r.config, folder, pick("cpu", r.precision)) for r in recipes]
    seconds, crops = np.zeros(len(recipes)), np.zeros(len(recipes))
    for number in range(UNTIMED + rounds):
        for i, trainer in enumerate(trainers):
            batch = Drawing(photos, trainer.config, ALONE)(number)
            start = time.process_time()
            trainer.step(batch)
            if number >= UNTIMED:
                seconds[i] += time.process_time() - start
                crops[i] += len(batch.image)
    return {r.name: float(s) for r, s in zip(recipes, seconds / crops, strict=True)}


# --- the table ------------------------------------------------------------------------------------


def change(name: str, base: float, new: float) -> float:
    """New against base: dB for PSNR, else %."""
    return new - base if name == "psnr" else 100 * (new / base - 1)


def spread_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How far the preset's two runs are apart, by score; none if there are not two."""
    found = {row["name"]: row["scores"] for row in rows}
    if BASE not in found or AGAIN not in found:
        return {}
    return {name: abs(change(name, found[BASE][name], found[AGAIN][name])) for name in SCORES}


def verdict(name: str, away: float, spread: float) -> str:
    """better, worse, or nothing where two equal recipes differ as much."""
    if abs(away) <= spread:
        return ""
    return "better" if (away > 0) == (name == "psnr") else "worse"


def section(data: dict[str, Any]) -> str:
    """A line for each recipe."""
    rows, speed = data["rows"], data.get("speed", {})
    base = next((row["scores"] for row in rows if row["name"] == BASE), None)
    if base is None:
        return "The preset itself is not measured yet."
    spread = spread_of(rows)
    lines = [["no network", *_noise_cells(), *["" for _ in ("psnr", "l1", "seam")], ""]]
    for row in rows:
        if row["name"] == BASE:
            cells = [_value(name, base[name]) for name in SCORES]
        else:
            judged = spread if row["name"] != AGAIN else {}
            cells = [_cell(name, base, row["scores"], judged) for name in SCORES]
        lines.append([f"**{row['name']}**: {row['what']}", *cells, _speed(speed, row["name"])])
    if spread:
        cells = [_unit(name, f"{spread[name]:.2g}") for name in SCORES]
        lines.append(["spread of two runs of the preset", *cells, ""])
    text = f"{about_line(data['about'])}\n\n{table(['recipe', *SCORES.values(), 'crops/s'], lines)}"
    names = [row["name"] for row in rows]
    apart = [f"{name} {_speed(speed, name)}" for name in speed if name not in names]
    return f"{text}\n\nTimed, not trained: {', '.join(apart)}." if apart else text


def _noise_cells() -> list[str]:
    """x_t / a as estimate of x_0: what a network that finds no noise leaves."""
    table_of_levels = NoiseTable(1000)
    levels = {step: table_of_levels.at(step) for step in STEPS}
    errors = {step: (1 - level) / level for step, level in levels.items()}
    mean = np.exp(np.mean([math.log(errors[step]) for step in REFINING]))
    return [_value("error", value) for value in (*errors.values(), float(mean))]


def _value(name: str, value: float) -> str:
    if name == "psnr":
        return f"{value:.2f} dB"
    return f"{value:.4f}" if name in ("l1", "seam") else f"{1000 * value:.3g}"


def _unit(name: str, number: str) -> str:
    return f"{number} dB" if name == "psnr" else f"{number} %"


def _cell(
    name: str, base: dict[str, float], new: dict[str, float], spread: dict[str, float]
) -> str:
    """The change; bold where better, italic where worse by more than the spread."""
    away = change(name, base[name], new[name])
    text = _unit(name, f"{away:+.2f}" if name == "psnr" else f"{away:+.1f}")
    found = verdict(name, away, spread[name]) if spread else ""
    return {"better": f"**{text}**", "worse": f"_{text}_"}.get(found, text)


def _speed(speed: dict[str, float], name: str) -> str:
    """Crops a second as a multiple of the preset's."""
    return f"x {speed[BASE] / speed[name]:.2f}" if name in speed else ""


# --- the run --------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [recipe.name for recipe in recipes(MODERN)]
    add = parser.add_argument
    add("folders", type=Path, nargs="+", help="pictures to train on")
    add("--val", type=Path, required=True, help="held-out pictures")
    add("--images", type=int, default=IMAGES, help="crops that each recipe sees")
    add("--only", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--rounds", type=int, default=10, help="timed steps of each; 0 times nothing")
    add("--output", type=Path, default=Path(tempfile.gettempdir()) / "d2s-recipes")
    add("--json", type=Path, default=HERE / "training_recipes.json")
    add("--markdown", type=Path, default=HERE / "training_recipes.md", help="its table is replaced")
    add("--table", default="recipes", help="which of the page's tables")
    return parser


def write_report(args: argparse.Namespace, data: dict[str, Any]) -> None:
    """The JSON, and the table of the page."""
    args.json.write_text(json.dumps(rounded(data), indent=1) + "\n")
    page = args.markdown.read_text() if args.markdown.is_file() else empty_page(args.table)
    args.markdown.write_text(insert(page, args.table, section(data)))


def about(args: argparse.Namespace, base: TrainConfig, compute: Compute) -> dict[str, Any]:
    held_out = args.val.resolve()
    return {
        "d2s": __version__,
        "trained on": ", ".join(f"{folder.name}/" for folder in args.folders),
        "crops": base.images,
        "warm-up": base.warmup,
        "cool-down": base.cooldown,
        "half-life of the average": f"{base.ema_halflife:g}",
        "held out": f"{COUNT} crops of {held_out.parent.name}/{held_out.name}",
        "compute": str(compute),
    }


def run(args: argparse.Namespace, preset: TrainConfig = MODERN) -> dict[str, Any]:
    """Measure what is asked for and has no numbers yet; the report is written after each."""
    base = shortened(preset, args.images)
    every = recipes(base)
    data = json.loads(args.json.read_text()) if args.json.is_file() else {}
    kept = {row["name"]: row for row in data.get("rows", [])}
    settings = {recipe.name: settings_of(recipe, args) for recipe in every}
    kept = {name: row for name, row in kept.items() if rounded(settings[name]) == row["settings"]}
    missing = [r for r in every if r.name in args.only and r.name not in kept]
    data["about"] = about(args, base, pick("cpu", "auto"))
    data["rows"] = list(kept.values())
    if not kept:
        data.pop("speed", None)
    if missing:
        photos = load_photos(args.folders)
        if args.rounds and "speed" not in data:
            data["speed"] = seconds_a_crop(timed(every), photos, args.rounds, args.output)
            print("processor seconds a crop:", data["speed"], flush=True)
        judge = Judge(load_photos([args.val]), base)
    for recipe in missing:
        start = time.monotonic()
        digest = hashlib.sha256(json.dumps(settings[recipe.name]).encode()).hexdigest()[:12]
        trainer = trained(recipe, photos, args.output / f"{recipe.name}-{digest}")
        middle = time.monotonic()
        row = {"name": recipe.name, "what": recipe.what, "scores": judge.scores(trainer)}
        kept[recipe.name] = row | {"settings": settings[recipe.name]}
        data["rows"] = [kept[r.name] for r in every if r.name in kept]
        took = f"{middle - start:.0f} s and {time.monotonic() - middle:.0f} s"
        print(f"{recipe.name}: {row['scores']}, {took}", flush=True)
        write_report(args, data)
    write_report(args, data)
    return data


def main(argv: Sequence[str] | None = None) -> None:
    run(build_parser().parse_args(argv))


if __name__ == "__main__":
    main()
