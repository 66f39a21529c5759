"""THE path: jobs -> windows -> guide -> refiner -> composite -> files.

`inpaint` and `refine` differ only in where the guide's result comes from. Nothing here prints;
`report` is told what happens.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.batches import Piece, WindowBatches
from d2s_cli.diffusion.refiner import Refiner, load_refiner
from d2s_cli.errors import D2SError, GuideError, InputError, UsageError, WeightsError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.on_photo import fill_window, hole_seed
from d2s_cli.guides.registry import files_here, load_guide
from d2s_cli.images.colour_detail import calm_colour
from d2s_cli.images.files import check_file, check_writable
from d2s_cli.images.formats import format_of, is_lossless
from d2s_cli.images.masks import MaskSettings, read_mask
from d2s_cli.images.pairing import Job, Plan, make_plan
from d2s_cli.images.photo import Photo
from d2s_cli.images.reading import read_photo
from d2s_cli.images.regions import Window, hole_windows
from d2s_cli.images.sharpening import sharpen_fill
from d2s_cli.images.texture import missing_texture
from d2s_cli.images.writing import (
    WriteSettings,
    changed_known_pixels,
    copy_photo,
    fill_hole,
    write_photo,
)
from d2s_cli.manifest import (
    MANIFEST_NAME,
    SCHEMA,
    Entry,
    Manifest,
    failure,
    file_record,
    settings_record,
    starts_of,
)
from d2s_cli.recipe import Recipe, Settings, check_settings, resolve_recipe
from d2s_cli.runtime import give_back_memory, pick
from d2s_cli.weights.bundled import find_weights

#: pictures, and pixels of them, held in memory while their windows wait for a full batch
MAX_OPEN = 16
MAX_OPEN_PIXELS = 100_000_000
#: how far a padded guide result may exceed the picture at the right and bottom
GUIDE_PADDING = 64
#: what ends the work on one picture and not the run
PICTURE_ERRORS = (InputError, MemoryError)
#: the name under which defaults for results of unknown tools are kept
UNKNOWN_TOOL = "*"


@dataclass
class Event:
    """What `report` is told.

    Attributes:
        kind: device, warning, note, done, copied, skipped or failed.
        text: one line for people.
        done, total: results so far, and of the whole run.
        entry: the manifest entry of a result.
    """

    kind: str
    text: str
    done: int = 0
    total: int = 0
    entry: Entry | None = None


Report = Callable[[Event], None]


@dataclass
class _Open:
    """A picture whose windows are under way.

    Attributes:
        expected: what a finished entry of exactly this work says (see Manifest.is_current).
        patches: refined windows so far, by sample.
        waiting: results of windows that are not there yet.
        recipes: by window number, of its last pass.
        sharpened: numbers of the windows whose guide's result was sharpened before.
    """

    job: Job
    photo: Photo
    hole: NDArray[np.bool_]
    outputs: list[Path]
    expected: Entry
    warnings: list[str]
    began: float
    patches: list[list[tuple[Window, NDArray[Any]]]]
    waiting: int = 0
    recipes: dict[int, Recipe] = field(default_factory=dict)
    sharpened: list[int] = field(default_factory=list)

    def deliver(self, window: Window, sample: int, result: NDArray[Any]) -> None:
        self.patches[sample].append((window, result))
        self.waiting -= 1

    def deliver_refined(self, window: Window, sample: int, result: NDArray[Any]) -> None:
        self.deliver(window, sample, calm_colour(result, self.hole[window.slices]))

    def picture(self, sample: int) -> NDArray[Any]:
        """The photo with the hole pixels that its windows answer for."""
        rgb = self.photo.rgb.copy()
        for window, patch in self.patches[sample]:
            rgb[window.slices][window.own] = patch[window.own]
        return rgb


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
        """Entries in the order in which pictures become ready."""
        opened: list[_Open] = []
        for job in jobs:
            if self.stop():
                break
            try:
                yield from self._start(job, opened)
            except PICTURE_ERRORS as error:
                yield failure(job.image, job.output, _of_picture(job.image, error))
            self.batches.compute_full()
            yield from self._finished(opened)
            pixels = sum(o.hole.size for o in opened)
            if len(opened) >= MAX_OPEN or pixels >= MAX_OPEN_PIXELS:
                self.batches.compute_all(self.stop)
                yield from self._finished(opened)
        self.batches.compute_all(self.stop)
        if self.stop():
            # what was begun is finished; what only waits can wait for the next run
            begun = {id(o) for o in opened if any(o.patches)}
            self.batches.keep(lambda piece: id(piece.owner) in begun)
            self.batches.compute_all()
        yield from self._finished(opened)

    def _start(self, job: Job, opened: list[_Open]) -> Iterator[Entry]:
        """Read a picture and queue its windows, or give its entries if nothing is to be done."""
        samples = self.settings.samples
        outputs = [sample_path(job.output, sample, samples) for sample in range(samples)]
        for path in outputs:
            format_of(path)
        expected = self._expected(job)
        if self._is_there(outputs, expected):
            for path in outputs:
                yield {
                    "schema": SCHEMA,
                    "status": "skipped",
                    "input": expected["input"],
                    "output": {"path": str(path)},
                }
            return
        for path in outputs:
            check_writable(path)
        photo = read_photo(job.image)
        mask = read_mask(job.mask, photo, self.settings.mask_settings)
        for warning in mask.warnings:
            self.report(Event("warning", warning))
        for note in mask.notes:
            self.report(Event("note", note))
        if mask.hole.all():
            raise InputError(
                f"{job.mask} marks the whole picture as hole: nothing is left to go by",
                "try: --polarity black, if black is the hole in this mask",
            )
        current = _Open(
            job,
            photo,
            mask.hole,
            outputs,
            expected,
            mask.warnings,
            time.monotonic(),
            [[] for _ in outputs],
        )
        self._queue(current)
        opened.append(current)

    def _expected(self, job: Job) -> Entry:
        """What a finished entry for this job says about where its result came from."""
        look = "look whether it was moved, or the disk is gone"
        check_file(job.image, "picture", look)
        check_file(job.mask, "mask", look)
        try:
            guide: Any = self._guide_record
            if job.guide is not None:
                guide = file_record(job.guide)
            return {
                "input": file_record(job.image),
                "mask": file_record(job.mask),
                "guide": guide,
                "weights": self._weights_record,
                "settings": self._settings_record,
            }
        except OSError as error:
            raise InputError(
                f"cannot read {error.filename}: {error.strerror}", "look at its permissions"
            ) from error

    @functools.cached_property
    def _weights_record(self) -> Entry:
        record = file_record(find_weights(self.settings.weights))
        return {"name": self.refiner.name, "sha256": record["sha256"]}

    @functools.cached_property
    def _settings_record(self) -> Entry:
        return settings_record(self.settings)

    def _is_there(self, outputs: Sequence[Path], expected: Entry) -> bool:
        """True if the results need no work; an error if they may not be replaced."""
        existing = [path for path in outputs if os.path.lexists(path)]
        whole = len(existing) == len(outputs)
        mode = self.settings.if_exists
        if mode == "skip":
            return whole
        if mode == "resume":
            return whole and all(self.manifest.is_current(path, expected) for path in outputs)
        if existing and mode == "error":
            raise InputError(
                f"{existing[0]} exists already",
                "try: --if-exists overwrite, --if-exists skip, or another --output",
            )
        return False

    def _queue(self, current: _Open) -> None:
        """Run the guide on every window, and queue those that are to be refined."""
        hole = current.hole
        windows = hole_windows(hole, self.refiner.config.tile, self.settings.context)
        # all of them before any is queued: where the guide fails, nothing is left waiting
        for window, guide in list(zip(windows, self._first_results(current, windows), strict=True)):
            recipe = self._recipe(current, window, guide)
            if guide is not None and recipe.sharpen:
                sharp = sharpen_fill(guide, hole[window.slices])
                if sharp is not guide:  # it may lack less texture than before
                    guide, recipe = sharp, self._recipe(current, window, sharp)
                    current.sharpened.append(window.number)
            self._queue_samples(current, window, guide, recipe)

    def _first_results(
        self, current: _Open, windows: Sequence[Window]
    ) -> Iterator[NDArray[Any] | None]:
        """The guide's result for each window; None starts from noise alone."""
        given = _read_guide(current) if current.job.guide else None
        for window in windows:
            if given is not None:
                yield _composite(current, window, given[window.slices])
            else:
                yield self._fill(self.guide, current, window) if self.guide else None

    def _fill(self, guide: Guide, current: _Open, window: Window) -> NDArray[Any]:
        """Run the guide on a window; what it cannot do is an error of this picture alone."""
        seed = hole_seed(self.settings.seed, window.number)
        try:
            return fill_window(guide, current.photo.rgb, current.hole, window.slices, seed)
        except (WeightsError, UsageError) as error:
            raise GuideError(error.message, error.hint) from error
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise GuideError(
                f"guide {guide.name} ran out of memory with a window of"
                f" {window.width}x{window.height}",
                "try: --device cpu, or another --guide",
            ) from error

    def _queue_samples(
        self, current: _Open, window: Window, guide: NDArray[Any] | None, recipe: Recipe
    ) -> None:
        current.recipes[window.number] = recipe
        view = current.photo.rgb[window.slices], current.hole[window.slices]
        for sample in range(self.settings.samples):
            current.waiting += 1
            if recipe.tk == 0 and guide is not None:
                current.deliver(window, sample, guide)
                continue
            deliver = functools.partial(current.deliver_refined, window, sample)
            seed = (self.settings.seed, sample, window.number)
            self.batches.add(Piece(*view, guide, seed, deliver, current), recipe)

    def _recipe(self, current: _Open, window: Window, guide: NDArray[Any] | None) -> Recipe:
        name = UNKNOWN_TOOL if current.job.guide else self._guide_name()
        missing = None
        if guide is not None and self.settings.tk is None:
            missing = missing_texture(guide, current.hole[window.slices])
        return resolve_recipe(self.settings, self.refiner, name, missing)

    def _guide_name(self) -> str:
        return self.guide.name if self.guide else "none"

    def _finished(self, opened: list[_Open]) -> Iterator[Entry]:
        for current in [o for o in opened if o.waiting == 0]:
            opened.remove(current)
            give_back_memory()
            for sample, path in enumerate(current.outputs):
                try:
                    yield self._write(current, sample, path)
                except PICTURE_ERRORS as error:
                    image = current.job.image
                    yield failure(image, path, _of_picture(image, error))

    def _write(self, current: _Open, sample: int, path: Path) -> Entry:
        photo, hole = current.photo, current.hole
        self._write_file(current, sample, path)
        change = changed_known_pixels(photo, hole, path) if self.settings.verify else None
        if sample == 0:
            for note in photo.notes:
                self.report(Event("note", f"{current.job.image}: {note}"))
        recipes = [current.recipes[number] for number in sorted(current.recipes)]
        patches = sorted(current.patches[sample], key=lambda patch: patch[0].number)
        return {
            "schema": SCHEMA,
            "status": "done" if hole.any() else "copied",
            **current.expected,
            "output": file_record(path),
            "sample": sample + 1,
            "seed": self.settings.seed,
            "width": photo.size[0],
            "height": photo.size[1],
            "hole_share": round(float(hole.mean()), 6),
            "boxes": [[w.left, w.top, w.width, w.height] for w, _ in patches],
            "tk": [r.tk for r in recipes],
            "sharpened": sorted(current.sharpened),
            "steps": recipes[0].steps if recipes else None,
            "sampler": recipes[0].sampler if recipes else None,
            "inject": recipes[0].inject if recipes else None,
            "device": str(self.refiner.compute),
            "d2s": version("d2s"),
            "torch": version("torch"),
            "seconds": round(time.monotonic() - current.began, 3),
            "changed_outside": change and change.count,
            "changed_outside_max": change and change.largest,
            "changed_outside_mean": change and round(change.mean, 6),
            "lossless": is_lossless(path, self.settings.quality),
            "warnings": current.warnings + photo.notes,
        }

    def _write_file(self, current: _Open, sample: int, path: Path) -> None:
        photo, options = current.photo, WriteSettings(self.settings.quality, self.settings.metadata)
        same = format_of(path) == photo.format and options == WriteSettings()
        if same and not current.hole.any():
            copy_photo(photo, path)
            photo.notes.clear()
        else:
            filled = fill_hole(photo, current.picture(sample), current.hole)
            write_photo(photo, filled, path, options)


def _composite(current: _Open, window: Window, guide: NDArray[Any]) -> NDArray[Any]:
    """A window with the guide's pixels in the hole and known ones elsewhere."""
    hole = current.hole[window.slices]
    return np.where(hole[..., None], guide, current.photo.rgb[window.slices])


def _of_picture(image: Path, error: D2SError | MemoryError) -> D2SError:
    if isinstance(error, D2SError):
        return error
    return InputError(
        f"not enough memory for {image}", "cut the picture into parts, and restore each"
    )


def describe(entry: Entry) -> str:
    """A manifest entry in one line for people."""
    if entry["status"] == "failed":
        return f"{entry['input']['path']}: {entry['error']['message']}"
    text = f"{entry['input']['path']} -> {entry['output']['path']}"
    if entry.get("tk"):
        guide = entry["guide"].get("name") or Path(entry["guide"]["path"]).name
        text += f" (guide {guide}, T_k {starts_of(entry)})"
    return text


def sample_path(output: Path, sample: int, samples: int) -> Path:
    """Where sample 0, 1, ... goes: NAME.s1.png, NAME.s2.png, ... if there are several."""
    if samples == 1:
        return output
    return output.with_name(f"{output.stem}.s{sample + 1}{output.suffix}")


def _read_guide(current: _Open) -> NDArray[Any]:
    """Another tool's result for the picture, cut to its size and brought to its type."""
    path, (width, height) = current.job.guide, current.photo.size
    assert path is not None
    guide = read_photo(path).rgb
    over_y, over_x = guide.shape[0] - height, guide.shape[1] - width
    if not (0 <= over_y < GUIDE_PADDING and 0 <= over_x < GUIDE_PADDING):
        raise InputError(
            f"guide result and image differ in size: {path} is {guide.shape[1]}x{guide.shape[0]},"
            f" {current.job.image} is {width}x{height}",
            "make the guide's results at the pictures' own size (LaMa's refine=True shrinks large"
            " ones)",
        )
    guide = guide[:height, :width]
    dtype = current.photo.rgb.dtype
    if guide.dtype != dtype:
        ratio = np.iinfo(dtype).max / np.iinfo(guide.dtype).max
        guide = np.round(guide * ratio).astype(dtype)
    return guide


def inpaint(
    inputs: str | Path | Sequence[str | Path],
    mask: str | Path | None = None,
    output: str | Path | None = None,
    recursive: bool = False,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
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
        settings: fields of Settings.

    Returns:
        One manifest entry for each result; "status" says done, copied, skipped or failed.

    Raises:
        InputError: nothing can be done at all.
    """
    plan = make_plan(inputs, mask, output, None, recursive, *_planning(settings))
    return carry_out(plan, report, stop, settings)


def refine(
    inputs: str | Path | Sequence[str | Path],
    guide_outputs: str | Path,
    mask: str | Path | None = None,
    output: str | Path | None = None,
    recursive: bool = False,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> list[Entry]:
    """Refine results that another tool made. What `d2s refine` calls; arguments as `inpaint`.

    Args:
        guide_outputs: folder (or file) with the first results, found by the names tools use.
    """
    plan = make_plan(inputs, mask, output, guide_outputs, recursive, *_planning(settings))
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
    manifest = plan.folder / MANIFEST_NAME if plan.folder else None
    return Engine(Settings(**settings), report, stop).run(plan.jobs, plan.failed, manifest)
