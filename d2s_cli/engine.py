"""THE path: jobs -> windows -> guide -> refiner -> composite -> files.

`inpaint` and `refine` differ only in where the guide's result comes from. Nothing here prints;
`report` is told what happens.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.diffusion.refiner import Refiner, SeedKey, load_refiner
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.errors import D2SError, DeviceError, InputError, UsageError
from d2s_cli.guides.contract import Guide, PictureGuide
from d2s_cli.guides.registry import load_guide
from d2s_cli.images.codec import (
    LOSSLESS,
    Photo,
    changed_known_pixels,
    fill_hole,
    format_of,
    read_photo,
    write_photo,
)
from d2s_cli.images.convert import from_unit_range, to_unit_range
from d2s_cli.images.masks import MaskSettings, read_mask
from d2s_cli.images.pairing import Job, plan_jobs
from d2s_cli.images.regions import Window, hole_windows
from d2s_cli.runtime import pick

#: pictures held in memory while their windows wait for a full batch
MAX_OPEN = 16
#: a whole-picture guide gets at most this many pixels round a window (patch search is slow)
GUIDE_PIXELS = 1_000_000
#: windows of 256 x 256 that go through the network together
BATCH = {"cpu": 4, "cuda": 16, "mps": 4}
#: how far a padded guide result may exceed the picture at the right and bottom
GUIDE_PADDING = 64
IF_EXISTS = ("error", "skip", "overwrite")


@dataclass(frozen=True)
class Settings:
    """How pictures are restored. None means: what the weights recommend for this guide.

    Attributes:
        guide: name of the guide; "none" starts from noise alone.
        weights: bundled name or file of the refiner.
        tk: step to refine from; 0 leaves the guide's result as it is.
        steps: network evaluations.
        sampler: a key of sampling.SAMPLERS.
        table_steps: T of the noise table.
        start: "middle" or "start".
        inject: feed the guide's features in (eq. 15 to 17).
        spacing: of the step grid.
        seed, samples: noise; samples beyond 1 are further results of each hole.
        device, precision: see runtime.pick.
        batch: windows of 256 x 256 at a time; None picks by device.
        context: pixels of surroundings in a window; None picks by the hole's size.
        mask_settings: how mask files are read.
        quality: of JPEG and WebP; None keeps the source's.
        if_exists: error, skip or overwrite.
        verify: read results back and count changed known pixels.
    """

    guide: str = "auto"
    weights: str = "d2s-base"
    tk: int | None = None
    steps: int | None = None
    sampler: str | None = None
    table_steps: int = 1000
    start: str = "middle"
    inject: bool | None = None
    spacing: str | None = None
    seed: int = 0
    samples: int = 1
    device: str = "auto"
    precision: str = "auto"
    batch: int | None = None
    context: int | None = None
    mask_settings: MaskSettings = field(default_factory=MaskSettings)
    quality: int | None = None
    if_exists: str = "error"
    verify: bool = True


@dataclass
class Event:
    """What `report` is told: kind is device, warning, done, skipped, copied or failed."""

    kind: str
    text: str
    done: int = 0
    total: int = 0


Report = Callable[[Event], None]


@dataclass(frozen=True)
class Recipe:
    """Refinement settings with nothing left open."""

    tk: int
    steps: int | None
    sampler: str
    inject: bool
    spacing: str
    table: NoiseTable
    start: str


#: used where the weights' header says nothing: the paper's T_k with a fast stochastic solver
FALLBACK: dict[str, Any] = {
    "tk": 200,
    "steps": 20,
    "sampler": "dpmpp-sde",
    "inject": True,
    "spacing": "time",
}


def resolve_recipe(settings: Settings, refiner: Refiner, guide_name: str) -> Recipe:
    """Settings that the user left open come from the weights' measured defaults for this guide.

    Raises:
        UsageError: a start outside the noise levels that the weights were trained on.
    """
    measured = refiner.config.defaults
    chosen = FALLBACK | measured.get(guide_name, measured.get("*", {}))
    for name in ("tk", "steps", "sampler", "inject", "spacing"):
        if (value := getattr(settings, name)) is not None:
            chosen[name] = value
    table = NoiseTable(settings.table_steps)
    if settings.tk is None:
        # measured on the table of 1000; another length keeps the share of the table
        chosen["tk"] = round(chosen["tk"] * table.steps / 1000)
    whole_table = settings.start == "start" or guide_name == "none"
    tk = table.steps if whole_table else int(chosen["tk"])
    steps = chosen["steps"]
    if settings.steps is None and steps is not None and tk > 0:
        steps = min(int(steps), tk)
    lowest = refiner.config.alpha_bar_min
    if tk > 0 and table.at(min(tk, table.steps)) < lowest * 0.999:
        allowed = sum(a >= lowest for a in table.alpha_bar)
        raise UsageError(
            f"the weights {refiner.name} know noise up to step {allowed} of a {table.steps}-step"
            f" table; this run starts at step {tk}",
            f"try: --tk {allowed}"
            + (", a --guide," if guide_name == "none" else "")
            + " or --weights FILE of a refiner trained on the whole table",
        )
    return Recipe(
        tk,
        steps,
        chosen["sampler"],
        bool(chosen["inject"]),
        chosen["spacing"],
        table,
        settings.start,
    )


@dataclass
class _Open:
    """A picture whose windows are under way."""

    job: Job
    photo: Photo
    hole: NDArray[np.bool_]
    results: list[NDArray[Any]]
    outputs: list[Path]
    waiting: int
    began: float
    warnings: list[str]


@dataclass
class _Piece:
    """One window of one sample of one open picture, ready for the network."""

    owner: _Open
    window: Window
    sample: int
    picture: NDArray[Any]
    hole: NDArray[np.bool_]
    guide: NDArray[Any]


class Engine:
    """Weights and guide loaded once; `run` restores any number of pictures."""

    def __init__(self, settings: Settings, report: Report = lambda event: None) -> None:
        check_settings(settings)
        self.settings = settings
        self.report = report
        compute = pick(settings.device, settings.precision)
        report(Event("device", f"device: {compute}"))
        self.refiner = load_refiner(settings.weights, compute=compute)
        self.guide: Guide | None = None
        self.queues: dict[tuple[int, int], list[_Piece]] = defaultdict(list)
        per_device = BATCH[compute.device.type]
        self.batch_pixels = (settings.batch or per_device) * 256 * 256

    def run(
        self, jobs: Sequence[Job], failed: Sequence[tuple[Path, InputError]] = ()
    ) -> list[dict[str, Any]]:
        """Restore the pictures; returns one manifest entry for each result or failure.

        A picture that cannot be read or written is an entry with status "failed"; the rest goes on.
        """
        if any(job.guide is None for job in jobs) and self.settings.guide != "none":
            self.guide = load_guide(self.settings.guide)
        entries: list[dict[str, Any]] = []
        total = len(jobs) + len(failed)
        for image, error in failed:
            entries.append(self._failed(image, error, len(entries), total))
        for finished in self._results(jobs):
            entries.append(finished)
            text = f"{finished['input']} -> {finished['output']}"
            if finished["status"] == "failed":
                text = f"{finished['input']}: {finished['error']['message']}"
            self.report(Event(finished["status"], text, len(entries), total))
        return entries

    def _failed(self, image: Path, error: D2SError, done: int, total: int) -> dict[str, Any]:
        self.report(Event("failed", f"{image}: {error.message}", done + 1, total))
        return _failure(image, None, error)

    def _results(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Entries in the order in which pictures become ready."""
        opened: list[_Open] = []
        for job in jobs:
            try:
                entry = self._start(job, opened)
            except InputError as error:
                entry = _failure(job.image, job.output, error)
            if entry is not None:
                yield entry
            self._compute_full_batches()
            yield from self._finished(opened)
            if len(opened) >= MAX_OPEN:
                self._compute_all()
                yield from self._finished(opened)
        self._compute_all()
        yield from self._finished(opened)

    def _start(self, job: Job, opened: list[_Open]) -> dict[str, Any] | None:
        """Read a picture and queue its windows; an entry at once if there is nothing to do."""
        outputs = [_sample_path(job.output, s, self.settings.samples) for s in self._samples()]
        for path in outputs:
            format_of(path)
        if existing := [p for p in outputs if p.exists()]:
            if self.settings.if_exists == "skip" and len(existing) == len(outputs):
                return {"status": "skipped", "input": str(job.image), "output": str(job.output)}
            if self.settings.if_exists == "error":
                raise InputError(
                    f"{existing[0]} exists already",
                    "try: --if-exists overwrite, --if-exists skip, or another --output",
                )
        photo = read_photo(job.image)
        mask = read_mask(job.mask, photo, self.settings.mask_settings)
        for warning in mask.warnings:
            self.report(Event("warning", warning))
        current = _Open(
            job,
            photo,
            mask.hole,
            [photo.rgb.copy() for _ in outputs],
            outputs,
            0,
            time.monotonic(),
            mask.warnings + photo.notes,
        )
        if mask.hole.all():
            raise InputError(
                f"{job.mask} marks the whole picture as hole: nothing is left to go by",
                "try: --polarity black, if black is the hole in this mask",
            )
        self._queue(current)
        opened.append(current)
        return None

    def _samples(self) -> range:
        return range(self.settings.samples)

    def _queue(self, current: _Open) -> None:
        windows = hole_windows(current.hole, self.refiner.config.tile, self.settings.context)
        given = _read_guide(current) if current.job.guide else None
        name = "*" if given is not None else self._guide_name()
        recipe = resolve_recipe(self.settings, self.refiner, name)
        for window in windows:
            guide = given[window.slices] if given is not None else self._guide(current, window)
            for sample in self._samples():
                piece = _Piece(
                    current,
                    window,
                    sample,
                    current.photo.rgb[window.slices],
                    current.hole[window.slices],
                    guide,
                )
                if recipe.tk == 0:
                    _paste(piece, guide)
                    continue
                current.waiting += 1
                self.queues[(window.height, window.width)].append(piece)

    def _guide_name(self) -> str:
        return self.guide.name if self.guide else "none"

    def _guide(self, current: _Open, window: Window) -> NDArray[Any]:
        """The guide's fill of one window, of the picture's own type."""
        rgb, hole = current.photo.rgb, current.hole
        if self.guide is None:
            return rgb[window.slices]
        view = window.slices
        if self.guide.prefers_whole_picture:
            view = _wider(window, hole.shape, GUIDE_PIXELS)
        if isinstance(self.guide, PictureGuide):
            filled = _fill_8_bit(self.guide, rgb[view], hole[view], self.settings.seed)
        else:
            image, holes = _tensors([rgb[view]], [hole[view]])
            filled = from_unit_range(self.guide(image, holes, seed=self.settings.seed), rgb.dtype)[
                0
            ]
        inner = tuple(
            slice(w.start - v.start, w.stop - v.start)
            for w, v in zip(window.slices, view, strict=True)
        )
        result: NDArray[Any] = filled[inner]
        return result

    def _compute_full_batches(self) -> None:
        for (height, width), pieces in self.queues.items():
            count = max(1, self.batch_pixels // (height * width))
            while len(pieces) >= count:
                self._compute(pieces[:count])
                del pieces[:count]

    def _compute_all(self) -> None:
        self._compute_full_batches()
        for pieces in self.queues.values():
            if pieces:
                self._compute(pieces)
                pieces.clear()

    def _compute(self, pieces: Sequence[_Piece]) -> None:
        """Refine windows of one size as one batch; smaller batches if memory runs out."""
        try:
            results = self._refine(pieces)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if len(pieces) == 1:
                raise DeviceError(
                    f"out of memory on {self.refiner.compute} with one window of"
                    f" {pieces[0].window.width}x{pieces[0].window.height}",
                    "try: close other programs, or --device cpu",
                ) from error
            self.batch_pixels //= 2
            half = len(pieces) // 2
            self._compute(pieces[:half])
            self._compute(pieces[half:])
            return
        for piece, result in zip(pieces, results, strict=True):
            _paste(piece, result)
            piece.owner.waiting -= 1

    def _refine(self, pieces: Sequence[_Piece]) -> NDArray[Any]:
        # pieces of one queue may differ in guide source only between runs, never within one
        name = "*" if pieces[0].owner.job.guide else self._guide_name()
        recipe = resolve_recipe(self.settings, self.refiner, name)
        image, hole = _tensors([p.picture for p in pieces], [p.hole for p in pieces])
        guide = None if name == "none" else _tensors([p.guide for p in pieces], [])[0]
        seeds = [(self.settings.seed, p.sample, p.window.number) for p in pieces]
        side = max(image.shape[-2:])
        if guide is not None and side > self.refiner.config.tile:
            guide = self._coarse(image, hole, guide, recipe, seeds)
        out = self._call(image, hole, guide, recipe, seeds)
        return from_unit_range(out, pieces[0].picture.dtype)

    def _call(
        self,
        image: torch.Tensor,
        hole: torch.Tensor,
        guide: torch.Tensor | None,
        recipe: Recipe,
        seeds: Sequence[SeedKey],
    ) -> torch.Tensor:
        return self.refiner.refine(
            image,
            hole,
            guide,
            tk=recipe.tk,
            steps=recipe.steps,
            sampler=recipe.sampler,
            schedule=recipe.table,
            inject=recipe.inject,
            seed=seeds,
            start=recipe.start,
            spacing=recipe.spacing,
        ).cpu()

    def _coarse(
        self,
        image: torch.Tensor,
        hole: torch.Tensor,
        guide: torch.Tensor,
        recipe: Recipe,
        seeds: Sequence[SeedKey],
    ) -> torch.Tensor:
        """Correct a large hole's guide at reduced size, where one window sees all of it.

        The correction (refined minus guide, both reduced) is enlarged and added, so the guide
        keeps its own fine texture.
        """
        height, width = image.shape[-2:]
        scale = self.refiner.config.tile / max(height, width)
        size = (max(8, round(height * scale)), max(8, round(width * scale)))

        def reduce(x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(x, size=size, mode="area")

        small_hole = (reduce(hole) > 0).float()
        small_guide = reduce(guide)
        refined = self._call(reduce(image), small_hole, small_guide, recipe, seeds)
        correction = torch.nn.functional.interpolate(
            refined - small_guide, size=(height, width), mode="bilinear"
        )
        return torch.where(hole > 0, (guide + correction).clamp(-1, 1), image)

    def _finished(self, opened: list[_Open]) -> Iterator[dict[str, Any]]:
        for current in [o for o in opened if o.waiting == 0]:
            opened.remove(current)
            yield self._write(current)

    def _write(self, current: _Open) -> dict[str, Any]:
        job, photo = current.job, current.photo
        try:
            for result, path in zip(current.results, current.outputs, strict=True):
                write_photo(fill_hole(photo, result, current.hole), path, self.settings.quality)
            changed, largest = self._check(current)
        except InputError as error:
            return _failure(job.image, job.output, error)
        status = "done" if current.hole.any() else "copied"
        return {
            "status": status,
            "input": str(job.image),
            "mask": str(job.mask),
            "output": str(job.output),
            "outputs": [str(p) for p in current.outputs],
            "guide": str(job.guide) if job.guide else self._guide_name(),
            "weights": self.refiner.name,
            "width": photo.size[0],
            "height": photo.size[1],
            "hole_share": round(float(current.hole.mean()), 6),
            "changed_outside": changed,
            "changed_outside_max": largest,
            "lossless": format_of(job.output) in LOSSLESS,
            "seed": self.settings.seed,
            "seconds": round(time.monotonic() - current.began, 3),
            "warnings": current.warnings,
        }

    def _check(self, current: _Open) -> tuple[int | None, int | None]:
        if not self.settings.verify:
            return None, None
        counts = [
            changed_known_pixels(current.photo, current.hole, path) for path in current.outputs
        ]
        return max(c for c, _ in counts), max(m for _, m in counts)


def check_settings(settings: Settings) -> None:
    """Raise UsageError for values that no run can have."""
    if settings.samples < 1:
        raise UsageError(f"--samples must be 1 or more, not {settings.samples}")
    if settings.tk is not None and not 0 <= settings.tk <= settings.table_steps:
        raise UsageError(
            f"--tk must lie between 0 and the table's {settings.table_steps} steps,"
            f" not {settings.tk}"
        )
    if settings.if_exists not in IF_EXISTS:
        raise UsageError(
            f"unknown --if-exists {settings.if_exists!r}", f"one of: {', '.join(IF_EXISTS)}"
        )
    if settings.batch is not None and settings.batch < 1:
        raise UsageError(f"--batch-size must be 1 or more, not {settings.batch}")


def _failure(image: Path, output: Path | None, error: D2SError) -> dict[str, Any]:
    return {
        "status": "failed",
        "input": str(image),
        "output": str(output) if output else None,
        "error": {"code": error.exit_code, "message": error.message, "hint": error.hint},
    }


def _sample_path(output: Path, sample: int, samples: int) -> Path:
    if samples == 1:
        return output
    return output.with_name(f"{output.stem}.s{sample + 1}{output.suffix}")


def _tensors(
    pictures: Sequence[NDArray[Any]], holes: Sequence[NDArray[np.bool_]]
) -> tuple[torch.Tensor, torch.Tensor]:
    image = to_unit_range(np.stack(pictures))
    if not holes:
        return image, torch.empty(0)
    return image, torch.from_numpy(np.stack(holes))[:, None].float()


def _paste(piece: _Piece, result: NDArray[Any]) -> None:
    target = piece.owner.results[piece.sample][piece.window.slices]
    target[piece.window.own] = result[piece.window.own]


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


def _wider(window: Window, shape: tuple[int, ...], pixels: int) -> tuple[slice, slice]:
    """The window grown evenly to about `pixels`, or the whole picture if that is smaller."""
    if shape[0] * shape[1] <= pixels:
        return slice(0, shape[0]), slice(0, shape[1])
    grow = max(0, int((pixels**0.5 - (window.height * window.width) ** 0.5) / 2))
    rows = slice(max(0, window.top - grow), min(shape[0], window.top + window.height + grow))
    columns = slice(max(0, window.left - grow), min(shape[1], window.left + window.width + grow))
    return rows, columns


def _fill_8_bit(
    guide: PictureGuide, picture: NDArray[Any], hole: NDArray[np.bool_], seed: int
) -> NDArray[Any]:
    """Guides on 8-bit pictures serve 16-bit ones too; the refiner brings the depth back."""
    if picture.dtype == np.uint8:
        return guide.fill_picture(picture, hole, seed)
    small = cv2.convertScaleAbs(picture, alpha=1 / 257)
    filled = guide.fill_picture(small, hole, seed).astype(picture.dtype) * 257
    return np.where(hole[..., None], filled, picture)


def inpaint(
    inputs: str | Path | Sequence[str | Path],
    mask: str | Path | None = None,
    output: str | Path | None = None,
    recursive: bool = False,
    report: Report = lambda event: None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Fill the holes of pictures: guide, then refine. What `d2s inpaint` calls.

    Args:
        inputs: a picture, a folder, or several.
        mask: mask file or folder; None looks beside the pictures.
        output: file for one result, else folder; None writes NAME_d2s beside a file and
            FOLDER_d2s/ beside a folder.
        recursive: go into subfolders.
        report: called with each Event.
        settings: fields of Settings.

    Returns:
        One manifest entry for each picture; "status" says done, copied, skipped or failed.

    Raises:
        InputError: nothing can be done at all.
    """
    return _restore(inputs, mask, output, None, recursive, report, settings)


def refine(
    inputs: str | Path | Sequence[str | Path],
    guide_outputs: str | Path,
    mask: str | Path | None = None,
    output: str | Path | None = None,
    recursive: bool = False,
    report: Report = lambda event: None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Refine results that another tool made. What `d2s refine` calls; arguments as `inpaint`.

    Args:
        guide_outputs: folder (or file) with the first results, found by the names tools use.
    """
    return _restore(inputs, mask, output, Path(guide_outputs), recursive, report, settings)


def _restore(
    inputs: str | Path | Sequence[str | Path],
    mask: str | Path | None,
    output: str | Path | None,
    guides: Path | None,
    recursive: bool,
    report: Report,
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    jobs, failed = plan_jobs(
        [Path(p) for p in paths],
        Path(mask) if mask is not None else None,
        Path(output) if output is not None else None,
        guides,
        recursive,
    )
    if not jobs:
        raise failed[0][1]
    if unknown := settings.keys() - asdict(Settings()).keys():
        raise UsageError(f"unknown settings: {', '.join(sorted(unknown))}")
    return Engine(Settings(**settings), report).run(jobs, failed)
