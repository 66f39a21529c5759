"""THE path: jobs -> windows -> guide -> refiner -> composite -> files.

`inpaint` and `refine` differ only in where the guide's result comes from. Nothing here prints;
`report` is told what happens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from d2s_cli.ahead import Ahead, Behind, Outcome
from d2s_cli.batches import Piece, WindowBatches
from d2s_cli.closing import PICTURE_ERRORS, Closer, of_picture
from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.errors import InputError, UsageError, WeightsError
from d2s_cli.events import Event, Report
from d2s_cli.filling import Filler, Fills, goes_in_batches
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.registry import files_here, load_guide
from d2s_cli.images.masks import MaskSettings
from d2s_cli.images.pairing import Job, Plan, make_plan
from d2s_cli.images.selection import Selection
from d2s_cli.manifest import MANIFEST_NAME, Entry, Manifest, failure, file_record, starts_of
from d2s_cli.opening import Opener
from d2s_cli.picture import Picture
from d2s_cli.recipe import Settings, check_settings, with_preset
from d2s_cli.runtime import pick
from d2s_cli.weights.bundled import find_weights

#: pictures, and pixels of them, held in memory while their windows wait for a full batch
MAX_OPEN = 16
MAX_OPEN_PIXELS = 100_000_000


class Engine:
    """Weights and guide loaded once; `run` restores any number of pictures.

    Args:
        settings: what to do.
        report: told what happens.
        stop: asked between pictures; once it says True, pictures under way are finished, and no
            more are begun.
    """

    def __init__(
        self,
        settings: Settings,
        report: Report = lambda event: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        settings = with_preset(settings)
        check_settings(settings)
        self.settings, self.report, self.stop = settings, report, stop
        compute = pick(settings.device, settings.precision)
        report(Event("device", f"device: {compute}"))
        self.refiner: Refiner = load_refiner(settings.weights, compute=compute)
        self.guide: Guide | None = None
        self._guide_record: Entry = {"name": "none"}
        self.batches = WindowBatches(self.refiner, settings.batch)
        self.manifest = Manifest(None)
        self.unrecorded = False

    def run(
        self,
        jobs: Sequence[Job],
        failed: Sequence[tuple[Path, InputError]] = (),
        manifest: Path | None = None,
    ) -> list[Entry]:
        """Restore the pictures; returns one manifest entry for each result or failure.

        A picture that cannot be read, filled by the guide or written is an entry with status
        "failed"; the rest goes on.

        Args:
            jobs: what to do.
            failed: pictures that the plan could not pair, with the reason.
            manifest: file that gets the entries, and that `if_exists="resume"` goes by.
        """
        if any(job.guide is None for job in jobs) and self.settings.guide != "none":
            self._load_guide()
        self.manifest = Manifest(manifest)
        entries: list[Entry] = []
        total = len(jobs) * self.settings.samples + len(failed)
        unpaired = (failure(image, None, error) for image, error in failed)
        for results in (unpaired, self._results(jobs)):
            for entry in results:
                entries.append(entry)
                self._record(entry)
                text = describe(entry)
                self.report(Event(entry["status"], text, len(entries), total, entry))
        return entries

    def _load_guide(self) -> None:
        settings = self.settings
        weights = settings.guide_weights or None
        if weights is None and settings.guide == "palette":
            weights = self._shared_weights()
        guide = load_guide(settings.guide, weights, settings.device, **settings.guide_options)
        guide.tell = lambda text: self.report(Event("note", text))
        for note in guide.notes:
            self.report(Event("note", f"guide {guide.name}: {note}"))
        self.guide, self._guide_record = guide, {"name": guide.name}
        if guide.files:
            self._guide_record["weights"] = [file_record(path) for path in guide.files]

    def _record(self, entry: Entry) -> None:
        """Into the manifest; where that cannot be written, the pictures still matter more."""
        try:
            self.manifest.append(entry)
        except InputError as error:
            if not self.unrecorded:
                self.report(Event("warning", f"{error.message}; {error.hint}"))
            self.unrecorded = True

    def _shared_weights(self) -> Path | None:
        """One checkpoint guides and refines, unless the guide has its own installed."""
        try:
            files_here("palette")
        except WeightsError:
            return find_weights(self.settings.weights)
        return None

    def _results(self, jobs: Sequence[Job]) -> Iterator[Entry]:
        """Entries in the order in which pictures become ready.

        Pictures are opened ahead and written behind the network, each in threads of their own.
        """
        threads = self._threads(len(jobs))
        outcomes = self._opened(jobs, threads)
        closer = Closer(self.settings, self.refiner.compute)
        behind = Behind(closer.close, threads=min(1, threads), waiting=2)
        opened: list[Picture] = []
        with contextlib.closing(outcomes), behind:
            while not self.stop() and (outcome := next(outcomes, None)) is not None:
                yield from self._begin(outcome, opened)
                self.batches.compute_full()
                yield from self._hand_over(opened, behind)
                pixels = sum(picture.hole.size for picture in opened)
                if len(opened) >= MAX_OPEN or pixels >= MAX_OPEN_PIXELS:
                    self.batches.compute_all(self.stop)
                    yield from self._hand_over(opened, behind)
            self.batches.compute_all(self.stop)
            if self.stop():
                # what was begun is finished; what only waits can wait for the next run
                begun = {id(picture) for picture in opened if any(picture.patches)}
                self.batches.keep(lambda piece: id(piece.owner) in begun)
                self.batches.compute_all()
            yield from self._hand_over(opened, behind)
            yield from self._told(behind.rest())

    def _opened(self, jobs: Sequence[Job], threads: int) -> Fills:
        """What comes of each job up to the refiner: pictures with every window filled."""
        opener = Opener(self.settings, self.refiner, self.guide, self._guide_record, self.manifest)
        if self.guide is None or not goes_in_batches(self.guide):
            return iter(Ahead(opener.open, jobs, threads, threads + 1))
        # networks of several threads would share the device's memory
        filler = Filler(opener, self.guide, self.settings.batch)
        return filler.fill(iter(Ahead(filler.read, jobs, threads, threads + 1)), self.stop)

    def _threads(self, jobs: int) -> int:
        """How many pictures are opened at a time beside the network; 0 does one thing at a time."""
        if jobs < 2:
            return 0
        workers = self.settings.workers
        if workers is None:
            workers = self.refiner.compute.spare_threads()
        return workers

    def _begin(
        self, outcome: Outcome[Job, Picture | list[Entry]], opened: list[Picture]
    ) -> Iterator[Entry]:
        """Queue an opened picture's windows, or give its entries if there is nothing to do."""
        try:
            result = outcome.get()
        except PICTURE_ERRORS as error:
            image = outcome.item.image
            yield failure(image, outcome.item.output, of_picture(image, error))
            return
        if isinstance(result, list):
            yield from result
            return
        self._say(result)
        self._queue(result)
        opened.append(result)

    def _hand_over(
        self, opened: list[Picture], behind: Behind[Picture, list[Entry]]
    ) -> Iterator[Entry]:
        """Have finished pictures written; give the entries of those that are."""
        for picture in [p for p in opened if p.waiting == 0]:
            opened.remove(picture)
            yield from self._told(behind.add(picture))
        yield from self._told(behind.ready())

    def _told(self, outcomes: Iterable[Outcome[Picture, list[Entry]]]) -> Iterator[Entry]:
        for outcome in outcomes:
            entries = outcome.get()
            self._say(outcome.item)
            yield from entries

    def _say(self, picture: Picture) -> None:
        for event in picture.said:
            self.report(event)
        picture.said.clear()

    def _queue(self, picture: Picture) -> None:
        """Queue the windows of a picture that are to be refined; the others are finished."""
        for window, guide, recipe in picture.windows:
            view = picture.photo.rgb[window.slices], picture.hole[window.slices]
            for sample in range(self.settings.samples):
                picture.waiting += 1
                if recipe.tk == 0 and guide is not None:
                    picture.deliver(window, sample, guide)
                    continue
                deliver = functools.partial(picture.deliver_refined, window, sample)
                seed = (self.settings.seed, sample, window.number)
                self.batches.add(Piece(*view, guide, seed, deliver, picture), recipe)


def describe(entry: Entry) -> str:
    """A manifest entry in one line for people."""
    if entry["status"] == "failed":
        return f"{entry['input']['path']}: {entry['error']['message']}"
    text = f"{entry['input']['path']} -> {entry['output']['path']}"
    if entry.get("tk"):
        guide = entry["guide"].get("name") or Path(entry["guide"]["path"]).name
        text += f" (guide {guide}, T_k {starts_of(entry)})"
    return text


def inpaint(
    inputs: str | Path | Sequence[str | Path],
    mask: str | Path | None = None,
    output: str | Path | None = None,
    recursive: bool = False,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    selection: Selection | None = None,
    **settings: Any,
) -> list[Entry]:
    """Fill the holes of pictures: guide, then refine. What `d2s inpaint` calls.

    Args:
        inputs: a picture, a folder, or several.
        mask: mask file or folder; None looks beside the pictures.
        output: file for one result, else folder; None writes NAME_d2s beside a file and
            FOLDER_d2s/ beside a folder.
        recursive: go into subfolders.
        report: called with each Event.
        stop: asked between pictures; True ends the run early.
        selection: which of the pictures found are wanted; None for all.
        settings: fields of Settings.

    Returns:
        One manifest entry for each result; "status" says done, copied, skipped or failed.

    Raises:
        InputError: nothing can be done at all.
    """
    plan = make_plan(inputs, mask, output, None, recursive, *_planning(settings), selection)
    return carry_out(plan, report, stop, settings)


def refine(
    inputs: str | Path | Sequence[str | Path],
    guide_outputs: str | Path,
    mask: str | Path | None = None,
    output: str | Path | None = None,
    recursive: bool = False,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    selection: Selection | None = None,
    **settings: Any,
) -> list[Entry]:
    """Refine results that another tool made. What `d2s refine` calls; arguments as `inpaint`.

    Args:
        guide_outputs: folder (or file) with the first results, found by the names tools use.
    """
    plan = make_plan(
        inputs, mask, output, guide_outputs, recursive, *_planning(settings), selection
    )
    return carry_out(plan, report, stop, settings)


def _planning(settings: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """The settings that the plan depends on: format of the results, source and names of masks."""
    masks: MaskSettings = settings.get("mask_settings", MaskSettings())
    return settings.get("format", "keep"), masks.source, masks.names


def carry_out(
    plan: Plan, report: Report, stop: Callable[[], bool], settings: dict[str, Any]
) -> list[Entry]:
    """Run a plan with the given fields of Settings."""
    if unknown := settings.keys() - {f.name for f in dataclasses.fields(Settings)}:
        raise UsageError(f"unknown settings: {', '.join(sorted(unknown))}")
    if not plan.jobs:
        raise plan.failed[0][1]
    for warning in plan.warnings():
        report(Event("warning", warning))
    manifest = plan.folder / MANIFEST_NAME if plan.folder else None
    return Engine(Settings(**settings), report, stop).run(plan.jobs, plan.failed, manifest)
