"""The paper's figures 3, 4 and 6 as curves, and its Table 1 with our values beside the paper's."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from d2s_cli.images.files import writing
from d2s_cli.metrics.scores import METRICS, metric_of, shown
from d2s_cli.paper.chart import Panel, Series, draw, svg, write_png
from d2s_cli.paper.plan import FIGURE3_TABLE, FIGURE4_TABLE, SHOWN, TABLE1, Cell, Sweep
from d2s_cli.paper.run import Outcome

#: what is drawn, the first of these that was computed, unless the user says
DRAWN = ("fid", "frechet", "kid", "lpips-alex", "lpips-vgg", "seam", "psnr-hole")
#: Table 1's columns, and what its guides are called
PAPER_COLUMNS = {"fid": "FID", "is": "IS", "pids": "P-IDS %", "uids": "U-IDS %"}
PAPER_NAMES = {
    "MAT": "mat",
    "LaMa": "lama",
    "DDNM": "ddnm",
    "DiffIR_S2": "diffir",
    "EdgeConnect": "edgeconnect",
    "M2S": "m2s",
    "WavePaint": "wavepaint",
}
PER_CENT = ("pids", "uids")
#: what the figures are of, under them
TITLES = {
    "figure3": "The guide alone, and refined",
    "figure4": "From the middle, and from the start of a table",
    "figure6": "Tables of different lengths",
}


@dataclass(frozen=True)
class PaperRow:
    """A line of the paper's Table 1: values by (masks, score), per cent as per cent."""

    model: str
    guide: str
    refined: bool
    params: int
    values: dict[tuple[str, str], float]


def paper_table() -> list[PaperRow]:
    """The paper's Table 1, in its order."""
    text = files("d2s_cli.paper").joinpath("table1.csv").read_text("utf-8")
    rows = []
    for row in csv.DictReader(io.StringIO(text)):
        values = {
            (masks, score): float(row[f"{masks}_{score}"])
            for masks in ("small", "large")
            for score in PAPER_COLUMNS
        }
        refined = row["refined"] == "yes"
        guide = PAPER_NAMES[row["model"]]
        rows.append(PaperRow(row["model"], guide, refined, int(row["params_m"]), values))
    return rows


def write_report(
    sweep: Sweep, outcomes: Sequence[Outcome], drawn: Sequence[str] = ()
) -> list[Path]:
    """Write what the results so far allow; returns the files.

    Figures are FIGURE-MASKS-SCORE.svg and .png with their numbers beside them as .csv; the table is
    table1.md and table1.csv; all settings are in results.csv.

    Args:
        sweep, outcomes: see run.run.
        drawn: scores to draw; empty takes the first of DRAWN that was computed.
    """
    with writing(sweep.output):
        sweep.output.mkdir(parents=True, exist_ok=True)
        return list(_written(sweep, outcomes, drawn))


def _written(sweep: Sweep, outcomes: Sequence[Outcome], drawn: Sequence[str]) -> Iterator[Path]:
    done = {outcome.cell: outcome for outcome in outcomes if outcome.status == "done"}
    scores = list(dict.fromkeys(name for outcome in done.values() for name in outcome.scores))
    yield _write_csv(sweep.output / "results.csv", _result_rows(outcomes, scores))
    if not drawn:
        drawn = [name for name in DRAWN if name in scores][:1]
    for part in (p for p in ("figure3", "figure4", "figure6") if p in sweep.parts):
        for masks in sweep.masks:
            for score in (name for name in drawn if name in scores):
                yield from _write_figure(sweep, done, part, masks, score)
    if "table1" in sweep.parts:
        path = sweep.output / "table1.md"
        path.write_text(table_markdown(sweep, outcomes, scores), "utf-8")
        yield path
        yield _write_csv(path.with_suffix(".csv"), _table_rows(sweep, done, scores))


def _result_rows(outcomes: Sequence[Outcome], scores: Sequence[str]) -> Iterator[list[object]]:
    yield ["masks", "guide", "start", "T", "tk", "status", "why", "pictures", *scores]
    for one in outcomes:
        cell = one.cell
        values = [_exact(one.scores.get(name)) for name in scores]
        start = cell.start or "alone"
        place = [cell.masks, cell.guide, start, cell.table or "", cell.tk or ""]
        yield [*place, one.status, one.why, one.count or "", *values]


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _write_csv(path: Path, rows: Iterator[list[object]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


# --- figures --------------------------------------------------------------------------------------


def figure_panels(
    sweep: Sweep, done: dict[Cell, Outcome], part: str, masks: str, score: str
) -> list[Panel]:
    """The curves of a figure, a panel for each guide that it shows; those without results empty."""

    def curve(name: str, cells: Sequence[Cell]) -> Series:
        points = [(c.tk, done[c].scores.get(score)) for c in cells if c in done]
        return Series(name, tuple((float(x), y) for x, y in points if y is not None))

    def middle(guide: str, table: int) -> list[Cell]:
        starts = [tk for tk in sorted(sweep.starts) if tk <= table]
        return [Cell(masks, guide, "middle", table, tk) for tk in starts]

    panels = []
    for guide in sweep.guides[: SHOWN[part]]:
        whole = [Cell(masks, guide, "start", t, t) for t in sorted(sweep.starts)]
        alone = done.get(Cell(masks, guide))
        level = alone.scores.get(score) if alone else None
        ends = (min(sweep.starts), max(sweep.starts))
        flat = () if level is None else tuple((float(x), level) for x in ends)
        series = [Series(f"{guide} alone", flat)]
        if part == "figure3":
            series.append(curve("refined: whole table of T steps", whole))
            series.append(
                curve(f"refined: from T_k of {FIGURE3_TABLE}", middle(guide, FIGURE3_TABLE))
            )
        elif part == "figure4":
            series = [curve("from the start: whole table of T steps", whole)]
            name = f"from the middle: T_k of {FIGURE4_TABLE}"
            series.append(curve(name, middle(guide, FIGURE4_TABLE)))
        else:
            series = [curve(f"T = {t}", middle(guide, t)) for t in sorted(sweep.tables)]
        panels.append(Panel(guide, tuple(series)))
    return panels


def _write_figure(
    sweep: Sweep, done: dict[Cell, Outcome], part: str, masks: str, score: str
) -> list[Path]:
    panels = figure_panels(sweep, done, part, masks, score)
    if not any(series.points for panel in panels for series in panel.series):
        return []
    path = sweep.output / f"{part}-{masks}-{score}.csv"
    count = max(outcome.count for outcome in done.values())
    title = f"{TITLES[part]}: {masks} masks, {count} pictures"
    better = metric_of(score).better
    label = f"{PAPER_COLUMNS.get(score, score)} ({better} is better)"
    x_label = "T_k" if part == "figure6" else "T_k, or T of a whole table"
    drawing = draw(panels, title, x_label, label)
    path.with_suffix(".svg").write_text(svg(drawing), "utf-8")
    write_png(drawing, path.with_suffix(".png"))
    rows: list[list[object]] = [
        [panel.title, series.name, f"{x:g}", _exact(y)]
        for panel in panels
        for series in panel.series
        for x, y in series.points
    ]
    _write_csv(path, iter([["guide", "curve", "x", score], *rows]))
    return [path, path.with_suffix(".svg"), path.with_suffix(".png")]


# --- table ----------------------------------------------------------------------------------------


def table_markdown(sweep: Sweep, outcomes: Sequence[Outcome], scores: Sequence[str]) -> str:
    """Table 1: the paper's scores as "ours (the paper's)", further scores of ours after them."""
    done = {outcome.cell: outcome for outcome in outcomes if outcome.status == "done"}
    further = [name for name in scores if name not in PAPER_COLUMNS]
    count = max((outcome.count for outcome in done.values()), default=0)
    how = "every step of T_k" if sweep.steps is None else f"at most {sweep.steps} steps"
    lines = [
        "# Table 1",
        "",
        f"{count} pictures, T = {TABLE1[0]}, T_k = {TABLE1[1]}, {how}. Ours, and in brackets the"
        " paper's; - is what was not computed here, no brackets what the paper does not have.",
    ]
    for masks in sweep.masks:
        heads = [*PAPER_COLUMNS.values(), *further]
        arrows = [_arrow(name) for name in (*PAPER_COLUMNS, *further)]
        titles = [f"{head} {arrow}" for head, arrow in zip(heads, arrows, strict=True)]
        lines += ["", f"## {masks} masks", "", f"| guide | {' | '.join(titles)} |"]
        lines.append("|---" * (1 + len(titles)) + "|")
        for guide, refined, paper in _table_lines(sweep):
            one = done.get(_table_cell(masks, guide, refined))
            cells = [_beside(name, one, paper, masks) for name in PAPER_COLUMNS]
            cells += [_ours(name, one) for name in further]
            name = f"{guide}, refined" if refined else f"**{guide}**"
            lines.append(f"| {name} | {' | '.join(cells)} |")
    blocked = dict.fromkeys((o.cell.guide, o.why) for o in outcomes if o.why and not o.cell.start)
    lines += ["", *(f"- {guide}: {why}" for guide, why in blocked)] if blocked else []
    return "\n".join(lines) + "\n"


def _table_lines(sweep: Sweep) -> Iterator[tuple[str, bool, PaperRow | None]]:
    """Guide, refined or not, and the paper's line: the paper's guides first, then the others."""
    paper = {(row.guide, row.refined): row for row in paper_table()}
    guides = list(dict.fromkeys([guide for guide, _ in paper] + list(sweep.guides)))
    for guide in guides:
        for refined in (False, True):
            yield guide, refined, paper.get((guide, refined))


def _table_cell(masks: str, guide: str, refined: bool) -> Cell:
    return Cell(masks, guide, "middle", *TABLE1) if refined else Cell(masks, guide)


def _arrow(name: str) -> str:
    return {"lower": "↓", "higher": "↑"}[metric_of(name).better]


def _ours(name: str, outcome: Outcome | None) -> str:
    value = None if outcome is None else outcome.scores.get(name)
    if value is None:
        return "-"
    return f"{value:.2f}" if name in ("fid", "is") else shown(name, value, False)


def _beside(name: str, outcome: Outcome | None, paper: PaperRow | None, masks: str) -> str:
    theirs = paper.values.get((masks, name)) if paper else None
    return _ours(name, outcome) + (f" ({theirs:.2f})" if theirs is not None else "")


def _table_rows(
    sweep: Sweep, done: dict[Cell, Outcome], scores: Sequence[str]
) -> Iterator[list[object]]:
    yield ["masks", "guide", "refined", "score", "better", "ours", "paper", "pictures"]
    names = [*PAPER_COLUMNS, *(name for name in scores if name not in PAPER_COLUMNS)]
    for masks in sweep.masks:
        for guide, refined, paper in _table_lines(sweep):
            one = done.get(_table_cell(masks, guide, refined))
            for name in names:
                value = one.scores.get(name) if one else None
                theirs = paper.values.get((masks, name)) if paper else None
                if value is None and theirs is None:
                    continue
                if value is not None and name in PER_CENT:
                    value *= 100
                count = one.count if one and value is not None else ""
                ours, beside = _exact(value), "" if theirs is None else f"{theirs:.2f}"
                better = metric_of(name).better
                place = [masks, guide, "yes" if refined else "no"]
                yield [*place, name, better, ours, beside, count]


def check_drawn(drawn: Sequence[str]) -> list[str]:
    """Those that are no scores."""
    return [name for name in drawn if name.removesuffix("-hole") not in METRICS]
