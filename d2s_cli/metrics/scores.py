"""What an evaluation gives: scores with what they are of, as objects, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Metric:
    """What a score is of and needs.

    Attributes:
        what: one line for people.
        better: "lower" or "higher".
        needs: "features" of both sets, "own features" of the results alone, "pairs" of pictures,
            "paired features", or "holes".
        unit: of the value as printed; "%" is kept as a fraction.
        weights: names of the weights files, see metrics.weights.
    """

    what: str
    better: str
    needs: str
    unit: str = ""
    weights: tuple[str, ...] = ()


_INCEPTION = ("inception-fid",)
METRICS = {
    "fid": Metric("Frechet Inception Distance", "lower", "features", weights=_INCEPTION),
    "kid": Metric("Kernel Inception Distance", "lower", "features", weights=_INCEPTION),
    "is": Metric("Inception Score", "higher", "own features", weights=_INCEPTION),
    "pids": Metric("paired discriminative score", "higher", "paired features", "%", _INCEPTION),
    "uids": Metric("unpaired discriminative score", "higher", "features", "%", _INCEPTION),
    "frechet": Metric("Frechet distance in the features of --features", "lower", "features"),
    "psnr": Metric("peak signal-to-noise ratio", "higher", "pairs", "dB"),
    "ssim": Metric("structural similarity, 11 x 11 Gaussian", "higher", "pairs"),
    "ssim-flat": Metric("structural similarity, 7 x 7 flat", "higher", "pairs"),
    "ssim-padded": Metric("structural similarity, Gaussian, black border", "higher", "pairs"),
    "l1": Metric("mean absolute difference, of 1", "lower", "pairs"),
    "lpips-alex": Metric(
        "LPIPS, AlexNet", "lower", "pairs", weights=("lpips-alex", "lpips-alex-trunk")
    ),
    "lpips-vgg": Metric(
        "LPIPS, VGG-16", "lower", "pairs", weights=("lpips-vgg", "lpips-vgg-trunk")
    ),
    "seam": Metric("visibility of the hole's edge, 0 to 1", "lower", "holes"),
}
ALIASES = {"lpips": "lpips-alex"}
#: what also has a value over the pixels of the hole alone, where masks are given
HOLE_SUFFIX = "-hole"
IN_HOLE = ("psnr", "ssim", "l1")


def metric_of(name: str) -> Metric:
    """The metric that a score's name stands for."""
    return METRICS[name.removesuffix(HOLE_SUFFIX)]


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes:
        value: fractions are fractions, not per cent.
        count: pictures (of the results) that it is of.
        low, high: 95 % confidence interval, None where none was computed.
        detail: what else belongs to it (standard deviation, splits, subsets, ...).
    """

    value: float
    count: int
    low: float | None = None
    high: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bin:
    """Means over the pictures whose hole covers from `low` to `high` of the picture."""

    low: float
    high: float
    count: int
    means: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """A whole evaluation. `scores["fid"]` is the value; `details["fid"]` all about it.

    Attributes:
        details: by name of the score.
        pictures: by name of a per-picture score, the values in the order of `names`.
        names: of the pictures.
        bins: by share of the picture that is hole; empty without masks.
        preset: name of the recipe.
        recipe: everything that decides the numbers, and versions.
        warnings: what to think about before believing them.
    """

    details: dict[str, Score]
    pictures: dict[str, list[float]]
    names: list[str]
    bins: list[Bin]
    preset: str
    recipe: dict[str, Any]
    warnings: list[str]

    def __getitem__(self, name: str) -> float:
        return self.details[ALIASES.get(name, name)].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.details)

    def __len__(self) -> int:
        return len(self.details)

    def __contains__(self, name: object) -> bool:
        return name in self.details

    def keys(self) -> list[str]:
        """Names of the scores."""
        return list(self.details)

    def items(self) -> list[tuple[str, float]]:
        """Names and values."""
        return [(name, score.value) for name, score in self.details.items()]

    def to_dict(self, pictures: bool = True) -> dict[str, Any]:
        """Plain values, as `to_json` writes them; numbers that JSON lacks are None."""
        document = {
            "schema": SCHEMA,
            "scores": {
                name: {**asdict(score), "better": metric_of(name).better}
                for name, score in self.details.items()
            },
            "bins": [asdict(one) for one in self.bins],
            "preset": self.preset,
            "recipe": self.recipe,
            "warnings": self.warnings,
        }
        if pictures:
            document["pictures"] = [
                {"name": name} | {key: values[i] for key, values in self.pictures.items()}
                for i, name in enumerate(self.names)
            ]
        plain: dict[str, Any] = _without_nan(document)
        return plain

    def to_json(self, pictures: bool = True) -> str:
        """One JSON document."""
        return json.dumps(self.to_dict(pictures), indent=1)

    def to_csv(self) -> str:
        """A line for each score."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "value", "low", "high", "count", "preset"])
        for name, score in self.details.items():
            ends = ["" if end is None else repr(end) for end in (score.low, score.high)]
            writer.writerow([name, repr(score.value), *ends, score.count, self.preset])
        return file.getvalue()

    def to_markdown(self) -> str:
        """A table."""
        rows = ["| metric | value | 95 % | pictures |", "|---|---|---|---|"]
        for name, value, interval, count in self.table():
            rows.append(f"| {name} | {value} | {interval} | {count} |")
        if self.bins:
            names = list(self.bins[0].means)
            rows += ["", f"| hole | pictures | {' | '.join(names)} |"]
            rows.append("|---" * (2 + len(names)) + "|")
            for one in self.bins:
                means = " | ".join(shown(name, one.means[name]) for name in names)
                rows.append(f"| {one.low:.0%} to {one.high:.0%} | {one.count} | {means} |")
        return "\n".join(rows) + "\n"

    def table(self) -> list[tuple[str, str, str, str]]:
        """Name with the better direction, value, interval and count of each score, as text."""
        rows = []
        for name, score in self.details.items():
            arrow = {"lower": "↓", "higher": "↑"}[metric_of(name).better]
            interval = ""
            if score.low is not None and score.high is not None:
                interval = f"{shown(name, score.low, False)} to {shown(name, score.high, False)}"
            value = shown(name, score.value)
            if "std" in score.detail:
                value += f" ± {score.detail['std']:.4g}"
            rows.append((f"{name} {arrow}", value, interval, str(score.count)))
        return rows


def shown(name: str, value: float, unit: bool = True) -> str:
    """A value as people read it; fractions become per cent where the papers print those."""
    metric = metric_of(name)
    if math.isnan(value):
        return "none"
    if metric.unit == "%":
        return f"{100 * value:.2f}" + (" %" if unit else "")
    text = f"{value:.3f}" if metric.unit == "dB" else f"{value:.4f}"
    if value != 0 and abs(value) < 0.01:
        text = f"{value:.3g}"
    return text + (f" {metric.unit}" if unit and metric.unit else "")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
