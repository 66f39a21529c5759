"""A sweep: each setting through the engine and the scores, what is there already left as it is.

Every setting has a folder with its results, the engine's manifest and scores.json. A sweep that was
cut off goes on when it is started again: the engine redoes pictures that are missing or were made
otherwise, and settings whose scores are of exactly these files and settings are not touched, even
if their results were deleted since. The guides' own results are needed: they are what is refined.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from d2s_cli.engine import inpaint, refine
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.evaluation import evaluate
from d2s_cli.evaluation_options import metric_names
from d2s_cli.events import Event, Report
from d2s_cli.images.files import check_writable, writing
from d2s_cli.manifest import Entry, file_record, settings_record
from d2s_cli.metrics.features import load_features
from d2s_cli.metrics.scores import METRICS
from d2s_cli.metrics.statistics import files_hash
from d2s_cli.metrics.weights import metric_weights
from d2s_cli.paper.plan import Cell, Planned, Sweep

SCHEMA = 1
SCORES_NAME, SWEEP_NAME = "scores.json", "d2s-sweep.json"
#: the paper's scores, where their network is here
PAPER_METRICS = ("fid", "is", "pids", "uids")
#: what needs no network
PLAIN_METRICS = ("seam", "psnr", "ssim", "l1")


@dataclass(frozen=True)
class Outcome:
    """What became of a setting.

    Attributes:
        cell: the setting.
        status: done, blocked (cannot be had here), failed, or open (not begun).
        why: not done.
        scores: by name.
        count: pictures.
    """

    cell: Cell
    status: str
    why: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    count: int = 0


def default_metrics(features: str | None) -> tuple[str, ...]:
    """The paper's scores if their network is here, those of `features`, and what needs none."""
    try:
        metric_weights("inception-fid")
        ours = PAPER_METRICS if features is None else ()
    except WeightsError:
        ours = ()
    return (*ours, *(("frechet",) if features else ()), *PLAIN_METRICS)


def _check_network(metrics: list[str], features: str | None) -> None:
    """Raise what is wrong with the scores' network now rather than after the first setting."""
    if features is not None:
        load_features(features, torch.device("cpu"))
    elif any("inception-fid" in METRICS[name].weights for name in metrics):
        metric_weights("inception-fid")


def run(
    sweep: Sweep,
    planned: Planned,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Carry out a planned sweep; returns what became of each setting, the blocked ones too.

    Args:
        sweep, planned: see plan.plan.
        report: told what happens; what is said twice is passed on once.
        stop: asked between pictures.

    Raises:
        UsageError: metrics that do not exist, or need what is not there.
        DeviceError: out of memory.
    """
    return _Run(sweep, planned, report, stop).outcomes()


class _Run:
    def __init__(
        self, sweep: Sweep, planned: Planned, report: Report, stop: Callable[[], bool]
    ) -> None:
        self.sweep, self.planned, self.stop = sweep, planned, stop
        self.tell, self.said = report, set[tuple[str, str]]()
        wanted = sweep.metrics or default_metrics(sweep.features)
        self.metrics = metric_names(wanted, sweep.features is not None, True)
        _check_network(self.metrics, sweep.features)
        check_writable(sweep.output / SWEEP_NAME)
        self.found: dict[Cell, Outcome] = {
            cell: Outcome(cell, "blocked", why) for cell, why in planned.blocked.items()
        }
        pictures = planned.pictures
        names = [path.stem for path in pictures]
        self.digests = {
            masks: [files_hash(pictures, names), files_hash(paths, names)]
            for masks, paths in planned.masks.items()
        }
        self.weights = file_record(planned.weights)["sha256"]
        self.firsts: dict[Cell, str] = {}
        self.before = 0

    def outcomes(self) -> list[Outcome]:
        for number, cell in enumerate(self.planned.cells):
            if self.stop():
                break
            self.before = number
            self.found[cell] = self._outcome(cell)
            self._write()
        self._write()
        return self._all()

    def _all(self) -> list[Outcome]:
        return [self.found.get(cell, Outcome(cell, "open")) for cell in self.sweep.cells()]

    def _outcome(self, cell: Cell) -> Outcome:
        folder = self.sweep.output / cell.place
        if cell.start and (first := self.found[cell.alone]).status != "done":
            return Outcome(cell, first.status, first.why)
        scores = _kept(folder / SCORES_NAME, self._made_of(cell)) if cell.start else None
        if scores is None:
            try:
                entries = self._restore(cell, folder)
            except (UsageError, WeightsError) as error:
                return Outcome(cell, "blocked", error.message)
            if self.stop():
                return Outcome(cell, "open")
            if failed := [entry for entry in entries if entry["status"] == "failed"]:
                why = f"{len(failed)} pictures failed: {failed[0]['error']['message']}"
                return Outcome(cell, "failed", why)
            made_of = self._made_of(cell)
            scores = _kept(folder / SCORES_NAME, made_of) or self._judge(cell, folder, made_of)
        values = {name: score["value"] for name, score in scores["scores"].items()}
        return Outcome(cell, "done", "", values, len(self.planned.pictures))

    def _restore(self, cell: Cell, folder: Path) -> list[Entry]:
        """The pictures of a setting; the guide runs once, and its files are refined."""
        settings = vars(self.sweep.settings_of(cell))
        common = (self.sweep.masks[cell.masks], folder, False, self._pass_on, self.stop)
        if not cell.start:
            return inpaint(self.planned.pictures, *common, **settings)
        first = self.sweep.output / cell.alone.place
        return refine(self.planned.pictures, first, *common, **settings)

    def _results(self, cell: Cell) -> list[Path]:
        folder = self.sweep.output / cell.place
        return [folder / f"{path.stem}.png" for path in self.planned.pictures]

    def _made_of(self, cell: Cell) -> dict[str, Any]:
        """What the scores of a setting follow from, its guide's results by their content."""
        if cell.alone not in self.firsts:
            results = self._results(cell.alone)
            self.firsts[cell.alone] = files_hash(results, [path.stem for path in results])
        record = {
            "settings": settings_record(self.sweep.settings_of(cell)),
            "weights": self.weights,
            "pictures": self.digests[cell.masks],
            "guide": self.firsts[cell.alone],
            "metrics": self.metrics,
            "preset": self.sweep.preset,
            "features": self._features,
        }
        plain: dict[str, Any] = json.loads(json.dumps(record))
        return plain

    @property
    def _features(self) -> dict[str, Any] | None:
        if self.sweep.features is None:
            return None
        path = Path(self.sweep.features.partition(":")[2])
        return file_record(path) if path.is_file() else {"path": str(path)}

    def _judge(self, cell: Cell, folder: Path, made_of: dict[str, Any]) -> dict[str, Any]:
        lists = {"results": self._results(cell), "truths": self.planned.pictures}
        for name, paths in lists.items():
            text = "".join(f"{path.absolute()}\n" for path in paths)
            with writing(folder):
                (folder / f"{name}.txt").write_text(text, "utf-8")
        scores = evaluate(
            folder / "results.txt",
            folder / "truths.txt",
            self.metrics,
            self.sweep.preset,
            self._pass_on,
            masks=self.sweep.masks[cell.masks],
            mask_settings=self.sweep.settings_of(cell).mask_settings,
            features=self.sweep.features,
            device=self.sweep.settings.get("device", "auto"),
        )
        document = scores.to_dict(pictures=False) | {"made_of": made_of}
        _write_json(folder / SCORES_NAME, document)
        return document

    def _pass_on(self, event: Event) -> None:
        """Progress of the whole sweep; what every setting says again is said once."""
        if event.kind in ("device", "note", "warning"):
            if (event.kind, event.text) in self.said:
                return
            self.said.add((event.kind, event.text))
        pictures = len(self.planned.pictures)
        done, total = 0, 0
        if event.total:
            done = self.before * pictures + min(event.done, pictures)
            total = len(self.planned.cells) * pictures
        self.tell(Event(event.kind, event.text, done, total, event.entry))

    def _write(self) -> None:
        cells = [
            {"place": outcome.cell.place, **asdict(outcome.cell), "status": outcome.status}
            | {"why": outcome.why, "pictures": outcome.count, "scores": outcome.scores}
            for outcome in self._all()
        ]
        document = {"schema": SCHEMA, "steps": self.sweep.steps, "cells": cells}
        _write_json(self.sweep.output / SWEEP_NAME, document)


def _kept(path: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """Scores of an earlier run, if they are of exactly this."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("made_of") != made_of:
        return None
    return document


def _write_json(path: Path, document: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        os.replace(partial, path)
