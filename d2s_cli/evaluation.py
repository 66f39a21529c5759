"""THE path of judging: pictures -> features and per-picture values -> scores.

Every picture is read once, in threads, while the networks work on those before it; sums stream.
What each number means is in docs/evaluate.md. Nothing here prints; `report` is told what happens.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2s_cli.errors import InputError, UsageError
from d2s_cli.evaluation_options import Options, check_needs, metric_names
from d2s_cli.events import Event, Report
from d2s_cli.images.convert import to_unit_range
from d2s_cli.judged_sets import Sets, find_sets
from d2s_cli.metrics.features import Extractor, InceptionFeatures, file_hash, load_features
from d2s_cli.metrics.lpips import LPIPS, lacking, load_lpips, read_parts
from d2s_cli.metrics.pictures import Item, Judged, judge
from d2s_cli.metrics.presets import Preset, find_preset
from d2s_cli.metrics.scores import METRICS, Scores
from d2s_cli.metrics.sides import Side, aligned
from d2s_cli.metrics.statistics import (
    Statistics,
    cache_folder,
    cache_path,
    files_hash,
    read_statistics,
    write_statistics,
)
from d2s_cli.metrics.summary import NEED_ROWS, Gathered, rows_of, set_scores, summarise
from d2s_cli.metrics.weights import FILES, metric_weights, published_hash
from d2s_cli.ranks import Ranks
from d2s_cli.runtime import Compute, pick

#: pictures whose features fit into less memory than a covariance are always kept
FEW = 2048
#: batches whose pictures are read while the networks work on those before
AHEAD = 3
#: notes on masks that are passed on; the rest would say the same
NOTES = 5


def evaluate(
    results: str | Path | None = None,
    reference: str | Path | None = None,
    metrics: Sequence[str] | str | None = None,
    preset: str = "mat",
    report: Report = lambda event: None,
    **options: Any,
) -> Scores:
    """Score results against a reference. What `d2s evaluate` calls.

    Args:
        results: folder, list file, picture, or .npz statistics; None takes the last run here by its
            manifest.
        reference: the same of the truths; "inputs" takes a run's inputs.
        metrics: names; None takes those that need no weights.
        preset: a key of PRESETS.
        report: called with each Event.
        options: fields of Options.

    Returns:
        The scores; the same on every rank of a torchrun.

    Raises:
        UsageError: metrics that do not exist, or need what was not given.
        InputError: sets that cannot be judged.
        WeightsError: weights that are missing or damaged.
    """
    if unknown := options.keys() - {f.name for f in dataclasses.fields(Options)}:
        raise UsageError(f"unknown options: {', '.join(sorted(unknown))}")
    settings, recipe = Options(**options), find_preset(preset)
    sets = find_sets(
        None if results is None else Path(results),
        None if reference is None else str(reference),
        settings.masks,
        settings.mask_settings,
        settings.pair,
        settings.matched_only,
        settings.recursive,
    )
    names = metric_names(metrics, settings.features is not None, sets.has_masks)
    if not metrics and settings.save_stats is not None and not sets.has_reference:
        names = []  # of one set there is nothing to compare; its statistics are what is wanted
    check_needs(names, sets, settings)
    for note in sets.notes:
        report(Event("note", note))
    return Evaluation(names, recipe, settings, sets, report).run()


class Evaluation:
    """One evaluation under way.

    Args:
        names: of the metrics.
        preset: recipe.
        settings: how.
        sets: what.
        report: told what happens.
    """

    def __init__(
        self, names: list[str], preset: Preset, settings: Options, sets: Sets, report: Report
    ) -> None:
        self.names, self.preset, self.settings, self.sets = names, preset, settings, sets
        self.report = report
        self.ranks = Ranks.join()
        self.compute: Compute = pick(settings.device, "fp32")
        self.weights: dict[str, Any] = {}
        self.warnings: list[str] = []
        needs = {METRICS[name].needs for name in names}
        self.compares_sets = bool(needs & {"features", "paired features"})
        self.keeps = bool(set(NEED_ROWS) & set(names)) or bool(settings.bootstrap)
        self.extractor = self._extractor(self.compares_sets or "own features" in needs)
        self.lpips = {
            name: self._lpips(name.removeprefix("lpips-"))
            for name in names
            if name.startswith("lpips-")
        }
        report(Event("device", f"device: {self.compute}"))

    def run(self) -> Scores:
        """The scores, on every rank."""
        known = {"result": self._given(self.sets.results), "truth": self._given(self.sets.truth)}
        wants_truth = self.compares_sets or self.settings.save_stats is not None
        for side in known.values():
            for name in NEED_ROWS:
                if side is not None and name in self.names:
                    rows_of(side, name)  # what is missing is said before hours of work
        cached = None
        if known["truth"] is None and wants_truth and self.extractor is not None:
            cached = self._cached()
            known["truth"] = self.ranks.share(self._read_cache(cached))
        gathered = self._pass(known["truth"] is None and wants_truth)
        scores = None
        if self.ranks.first:
            scores = self._finish(gathered, known, cached)
        found: Scores = self.ranks.share(scores)
        return found

    def _extractor(self, wanted: bool) -> Extractor | None:
        if not wanted and self.settings.save_stats is None:
            return None
        if self.settings.features is not None:
            return load_features(self.settings.features, self.compute.device)
        (path,) = self._files("inception-fid")[:1]
        return InceptionFeatures(path, self.preset, self.compute.device)

    def _lpips(self, net: str) -> LPIPS:
        """The distance, from one file with heads and trunk or from two."""
        name = f"lpips-{net}"
        tensors = read_parts(self._files(name))
        for part in lacking(tensors):
            missing = f"{name}-trunk" if part == "trunk" else name
            tensors |= read_parts(self._files(missing, installed=part == "heads"))
        return load_lpips(net, tensors, self.compute.device)

    def _files(self, name: str, installed: bool = False) -> list[Path]:
        """Files of weights: those given (unless only `installed` ones are asked for), else the one
        in the weights folder."""
        given = [] if installed else self.settings.metric_weights.get(name, [])
        paths = [metric_weights(name, path) for path in given] or [metric_weights(name)]
        published = {file.sha256 for file in FILES.values()}
        for path in paths:
            digest = file_hash(path)
            self.weights.setdefault(name, []).append({"file": path.name, "sha256": digest})
            source = published_hash(name, path, digest)
            if name == "inception-fid" and source not in published:
                self._warn(
                    f"{path.name} is not the published file; its scores compare with no paper's"
                )
        return paths

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            if self.ranks.first:
                self.report(Event("warning", text))

    def _given(self, side: Any) -> Statistics | None:
        """Statistics that were given as a file."""
        if not isinstance(side, Path):
            return None
        found, notes = read_statistics(side, self.extractor)
        for note in notes:
            self._warn(note)
        return found

    def _cached(self) -> Path | None:
        """Where the reference's statistics are kept, None without cache."""
        if self.settings.cache is False:
            return None
        assert self.extractor is not None
        folder = self.settings.cache if isinstance(self.settings.cache, Path) else cache_folder()
        truths = [item for item in self.sets.items if item.truth is not None]
        digest = files_hash([i.truth for i in truths if i.truth], [i.name for i in truths])
        return cache_path(folder, digest, self.extractor)

    def _read_cache(self, path: Path | None) -> Statistics | None:
        if path is None or not self.ranks.first or not path.is_file():
            return None
        try:
            found, _ = read_statistics(path, self.extractor)
        except InputError as error:
            self.report(Event("note", f"features are computed again: {error.message}"))
            return None
        if self.keeps and found.features is None:
            return None
        self.report(Event("note", "features of the reference come from an earlier evaluation"))
        return found

    def _pass(self, truth_features: bool) -> Gathered:
        """One read of every picture of this rank's share; everything at the first rank."""
        items = self.sets.items if truth_features or self._reads_truths() else self._results_only()
        mine = Side.pair(self.keeps or len(items) <= FEW)
        values: dict[int, Judged] = {}
        chunks = [
            range(start, min(start + self.settings.batch, len(items)))
            for start in range(0, len(items), self.settings.batch)
        ]
        share = [chunk for i, chunk in enumerate(chunks) if i % self.ranks.size == self.ranks.rank]
        done, said, total = 0, 0, sum(map(len, share))
        for chunk, judged in self._judged(items, share, truth_features):
            self._compare(judged)
            for side in ("result", "truth"):
                self._features(side, mine[side], chunk, judged)
            for number, one in zip(chunk, judged, strict=True):
                for note in one.notes[: max(0, NOTES - said)]:
                    self.report(Event("note", note))
                said += len(one.notes)
                one.pair = one.result = one.truth = None
                values[number] = one
            done += len(chunk)
            self.report(Event("progress", "", done, total))
        parts = self.ranks.gather((values, mine))
        return self._joined(items, parts)

    def _reads_truths(self) -> bool:
        return any(METRICS[name].needs in ("pairs", "holes") for name in self.names)

    def _results_only(self) -> list[Item]:
        """Items without truths that nobody needs to read."""
        kept = [item for item in self.sets.items if item.result is not None]
        if self.sets.has_masks:
            return kept
        return [dataclasses.replace(item, truth=None) for item in kept]

    def _judged(
        self, items: Sequence[Item], chunks: Sequence[range], truth_features: bool
    ) -> Iterator[tuple[range, list[Judged]]]:
        """Chunks in order; the pictures of the following ones are read meanwhile."""
        per_picture = [n for n in self.names if METRICS[n].needs in ("pairs", "holes")]
        per_picture = [name for name in per_picture if name not in self.lpips]

        def read(number: int) -> Judged:
            extractor, pair = self.extractor, bool(self.lpips)
            return judge(items[number], per_picture, extractor, truth_features, pair)

        if self.settings.workers == 0:
            for chunk in chunks:
                yield chunk, [read(number) for number in chunk]
            return
        with ThreadPoolExecutor(self.settings.workers) as pool:
            ahead: list[tuple[range, list[Future[Judged]]]] = []
            waiting = iter(chunks)
            try:
                while True:
                    for following in itertools.islice(waiting, AHEAD - len(ahead)):
                        ahead.append((following, [pool.submit(read, n) for n in following]))
                    if not ahead:
                        return
                    chunk, futures = ahead.pop(0)
                    yield chunk, [future.result() for future in futures]
            finally:
                for _, futures in ahead:
                    for future in futures:
                        future.cancel()

    def _compare(self, judged: Sequence[Judged]) -> None:
        """LPIPS of the pairs, those of one size together."""
        pairs = [(i, one.pair) for i, one in enumerate(judged) if one.pair is not None]
        for size in dict.fromkeys(pair[0].shape for _, pair in pairs):
            group = [(i, pair) for i, pair in pairs if pair[0].shape == size]
            sides = [
                to_unit_range(np.stack([pair[side] for _, pair in group])).to(self.compute.device)
                for side in (0, 1)
            ]
            for name, network in self.lpips.items():
                with torch.inference_mode():
                    distances = network(*sides).cpu().tolist()
                for (i, _), distance in zip(group, distances, strict=True):
                    judged[i].values[name] = distance

    def _features(self, name: str, side: Side, chunk: range, judged: Sequence[Judged]) -> None:
        prepared = [(n, getattr(one, name)) for n, one in zip(chunk, judged, strict=True)]
        prepared = [(n, one) for n, one in prepared if one is not None]
        if prepared and self.extractor is not None:
            side.add([n for n, _ in prepared], self.extractor([one for _, one in prepared]))

    def _joined(self, items: Sequence[Item], parts: Sequence[Any]) -> Gathered:
        """What all ranks have, in the order of the items."""
        values: dict[int, Judged] = {}
        sides = Side.pair(keep=True)
        for judged, found in parts:
            values |= judged
            for side in sides:
                sides[side].merge(found[side])
        order = sorted(values)
        sources = {"result": self.sets.results_name, "truth": self.sets.truth_name}
        statistics = {name: side.statistics(sources[name], items) for name, side in sides.items()}
        return Gathered(
            [items[n] for n in order],
            [values[n] for n in order],
            statistics["result"],
            statistics["truth"],
        )

    def _finish(
        self, gathered: Gathered, known: dict[str, Statistics | None], cached: Path | None
    ) -> Scores:
        fresh = gathered.truth
        results = known["result"] or gathered.result
        truth = known["truth"] or fresh
        if fresh is not None and cached is not None and self.extractor is not None:
            self._keep(cached, fresh)
        if self.settings.save_stats is not None and self.extractor is not None:
            saved = truth or results
            assert saved is not None
            write_statistics(self.settings.save_stats, saved, self.extractor)
        details = {}
        if self.extractor is not None and results is not None:
            paired = self.sets.paired
            if not paired and truth is not None and "pids" in self.names:
                truth, paired = aligned(results, truth), True
            details = set_scores(
                self.names, results, truth, self.extractor, self.preset,
                self.settings.bootstrap or 0, self.settings.seed, paired,
            )  # fmt: skip
        scores = summarise(
            self.names, gathered, details, self.settings.bootstrap, self.settings.seed
        )
        for text in scores.warnings:
            self._warn(text)
        return dataclasses.replace(
            scores,
            preset=self.preset.name,
            recipe=self._recipe(results, truth),
            warnings=list(self.warnings),
        )

    def _keep(self, path: Path, statistics: Statistics) -> None:
        """Keep statistics for later runs; a full disk costs the next run time, not this one."""
        assert self.extractor is not None
        try:
            write_statistics(path, statistics, self.extractor)
        except InputError as error:
            self._warn(f"features of the reference are not kept: {error.message}")

    def _recipe(self, results: Statistics | None, truth: Statistics | None) -> dict[str, Any]:
        preset = dataclasses.asdict(self.preset)
        packages = ("d2s", "torch", "numpy", "pillow", "opencv-python-headless")
        return {
            "preset": preset,
            "results": self.sets.results_name,
            "reference": self.sets.truth_name,
            "pictures": {
                "results": results.count if results else self.sets.count("result"),
                "reference": truth.count if truth else self.sets.count("truth"),
            },
            "features": self.extractor.name if self.extractor else None,
            "weights": self.weights,
            "seed": self.settings.seed,
            "bootstrap": self.settings.bootstrap,
            "device": str(self.compute),
            "batch": self.settings.batch,
            "versions": {name: version(name) for name in packages},
        }
