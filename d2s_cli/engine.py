"""THE path: jobs -> windows -> guide -> refiner -> composite -> files.

`inpaint` and `refine` differ only in where the guide's result comes from. Nothing here prints;
`report` is told what happens.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.diffusion.refiner import SeedKey, load_refiner
from d2s_cli.errors import D2SError, DeviceError, InputError, UsageError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.on_photo import fill_window
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
from d2s_cli.images.texture import missing_texture
from d2s_cli.recipe import Recipe, Settings, check_settings, resolve_recipe
from d2s_cli.runtime import pick

#: pictures held in memory while their windows wait for a full batch
MAX_OPEN = 16
#: windows of 256 x 256 that go through the network together
BATCH = {"cpu": 4, "cuda": 16, "mps": 4}
#: how far a padded guide result may exceed the picture at the right and bottom
GUIDE_PADDING = 64
#: the name under which defaults for results of unknown tools are kept
UNKNOWN_TOOL = "*"


@dataclass
class Event:
    """What `report` is told: kind is device, warning, note, done, skipped, copied or failed."""

    kind: str
    text: str
    done: int = 0
    total: int = 0


Report = Callable[[Event], None]


@dataclass
class _Open:
    """A picture whose windows are under way."""

    job: Job
    photo: Photo
    hole: NDArray[np.bool_]
    results: list[NDArray[Any]]
    outputs: list[Path]
    warnings: list[str]
    began: float
    waiting: int = 0
    starts: list[int] = field(default_factory=list)


@dataclass
class _Piece:
    """One window of one sample of one open picture, ready for the network."""

    owner: _Open
    window: Window
    sample: int
    picture: NDArray[Any]
    hole: NDArray[np.bool_]
    guide: NDArray[Any] | None


#: what windows must share to go through the network together
_Kind = tuple[int, int, Recipe]


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
        self.queues: dict[_Kind, list[_Piece]] = defaultdict(list)
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
            self.report(Event(finished["status"], _describe(finished), len(entries), total))
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
        samples = self.settings.samples
        outputs = [_sample_path(job.output, sample, samples) for sample in range(samples)]
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
        for note in mask.notes:
            self.report(Event("note", note))
        current = _Open(
            job,
            photo,
            mask.hole,
            [photo.rgb.copy() for _ in outputs],
            outputs,
            mask.warnings,
            time.monotonic(),
        )
        if mask.hole.all():
            raise InputError(
                f"{job.mask} marks the whole picture as hole: nothing is left to go by",
                "try: --polarity black, if black is the hole in this mask",
            )
        self._queue(current)
        opened.append(current)
        return None

    def _queue(self, current: _Open) -> None:
        """Run the guide on every window, and queue those that are to be refined."""
        rgb, hole = current.photo.rgb, current.hole
        given = _read_guide(current) if current.job.guide else None
        for window in hole_windows(hole, self.refiner.config.tile, self.settings.context):
            guide: NDArray[Any] | None = None
            if given is not None:
                guide = given[window.slices]
            elif self.guide is not None:
                guide = fill_window(self.guide, rgb, hole, window.slices, self.settings.seed)
            recipe = self._recipe(current, window, guide)
            current.starts.append(recipe.tk)
            for sample in range(self.settings.samples):
                piece = _Piece(
                    current, window, sample, rgb[window.slices], hole[window.slices], guide
                )
                if recipe.tk == 0 and guide is not None:
                    _paste(piece, guide)
                    continue
                current.waiting += 1
                self.queues[(window.height, window.width, recipe)].append(piece)

    def _recipe(self, current: _Open, window: Window, guide: NDArray[Any] | None) -> Recipe:
        name = UNKNOWN_TOOL if current.job.guide else self._guide_name()
        missing = None
        if guide is not None and self.settings.tk is None:
            hole = current.hole[window.slices]
            filled = np.where(hole[..., None], guide, current.photo.rgb[window.slices])
            missing = missing_texture(filled, hole)
        return resolve_recipe(self.settings, self.refiner, name, missing)

    def _guide_name(self) -> str:
        return self.guide.name if self.guide else "none"

    def _compute_full_batches(self) -> None:
        for kind, pieces in self.queues.items():
            height, width, recipe = kind
            count = max(1, self.batch_pixels // (height * width))
            while len(pieces) >= count:
                self._compute(pieces[:count], recipe)
                del pieces[:count]

    def _compute_all(self) -> None:
        self._compute_full_batches()
        for (_, _, recipe), pieces in self.queues.items():
            if pieces:
                self._compute(pieces, recipe)
        self.queues.clear()

    def _compute(self, pieces: Sequence[_Piece], recipe: Recipe) -> None:
        """Refine windows of one size as one batch; smaller batches if memory runs out."""
        try:
            results = self._refine(pieces, recipe)
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
            self._compute(pieces[:half], recipe)
            self._compute(pieces[half:], recipe)
            return
        for piece, result in zip(pieces, results, strict=True):
            _paste(piece, result)
            piece.owner.waiting -= 1

    def _refine(self, pieces: Sequence[_Piece], recipe: Recipe) -> NDArray[Any]:
        image = to_unit_range(np.stack([p.picture for p in pieces]))
        hole = torch.from_numpy(np.stack([p.hole for p in pieces]))[:, None].float()
        guides = [p.guide for p in pieces if p.guide is not None]
        guide = to_unit_range(np.stack(guides)) if guides else None
        seeds = [(self.settings.seed, p.sample, p.window.number) for p in pieces]
        if guide is not None and max(image.shape[-2:]) > self.refiner.config.tile:
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
            "tk": current.starts,
            "width": photo.size[0],
            "height": photo.size[1],
            "hole_share": round(float(current.hole.mean()), 6),
            "changed_outside": changed,
            "changed_outside_max": largest,
            "lossless": format_of(job.output) in LOSSLESS,
            "seed": self.settings.seed,
            "seconds": round(time.monotonic() - current.began, 3),
            "warnings": current.warnings + photo.notes,
        }

    def _check(self, current: _Open) -> tuple[int | None, int | None]:
        if not self.settings.verify:
            return None, None
        counts = [
            changed_known_pixels(current.photo, current.hole, path) for path in current.outputs
        ]
        return max(c for c, _ in counts), max(m for _, m in counts)


def _describe(entry: dict[str, Any]) -> str:
    """One line for people."""
    if entry["status"] == "failed":
        return f"{entry['input']}: {entry['error']['message']}"
    text = f"{entry['input']} -> {entry['output']}"
    if starts := entry.get("tk"):
        low, high = min(starts), max(starts)
        refined = f"{low}" if low == high else f"{low} to {high}"
        text += f" (guide {Path(entry['guide']).name}, T_k {refined})"
    return text


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
        settings.get("mask_settings", MaskSettings()).source,
    )
    if not jobs:
        raise failed[0][1]
    if unknown := settings.keys() - {f.name for f in fields(Settings)}:
        raise UsageError(f"unknown settings: {', '.join(sorted(unknown))}")
    return Engine(Settings(**settings), report).run(jobs, failed)
