"""Opening a picture: read it, read its mask, place windows, and have the guide fill them."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.errors import GuideError, InputError, UsageError, WeightsError
from d2s_cli.events import Event
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.correctors import corrector_files, load_corrector
from d2s_cli.guides.on_photo import Sight, correct_windows, fill_sights, hole_seed, see_window
from d2s_cli.images.files import check_file, check_writable
from d2s_cli.images.formats import format_of
from d2s_cli.images.masks import read_mask
from d2s_cli.images.pairing import Job
from d2s_cli.images.reading import read_photo
from d2s_cli.images.regions import Window, hole_windows
from d2s_cli.images.sharpening import sharpen_fill
from d2s_cli.images.texture import missing_texture
from d2s_cli.manifest import SCHEMA, Entry, Manifest, file_record, settings_record
from d2s_cli.picture import Picture
from d2s_cli.recipe import Recipe, Settings, resolve_recipe, wants_correction
from d2s_cli.weights.bundled import find_weights

#: how far a padded guide result may exceed the picture at the right and bottom
GUIDE_PADDING = 64
#: the name under which defaults for results of unknown tools are kept
UNKNOWN_TOOL = "*"


class Opener:
    """Opens pictures of one run; several threads may do so at a time.

    Args:
        settings: of the run.
        refiner: whose windows and defaults count.
        guide: fills windows; None starts from noise, or from other tools' results.
        guide_record: what the manifest says about the guide.
        manifest: of earlier runs.
    """

    def __init__(
        self,
        settings: Settings,
        refiner: Refiner,
        guide: Guide | None,
        guide_record: Entry,
        manifest: Manifest,
    ) -> None:
        self.settings, self.refiner, self.guide = settings, refiner, guide
        self.guide_record, self.manifest = guide_record, manifest
        self._correctors: dict[str, Guide] = {}
        self._record_of = functools.cache(file_record)
        self._loading = threading.Lock()

    def open(self, job: Job) -> Picture | list[Entry]:
        """Read a picture and fill its windows; or its entries, if nothing is to be done.

        Raises:
            InputError, MemoryError: this picture cannot be restored.
        """
        picture = self.read(job)
        if isinstance(picture, Picture):
            windows = self.windows_of(picture)
            firsts = self._corrected(picture, windows, [*self._first_results(picture, windows)])
            for window, first in zip(windows, firsts, strict=True):
                self._note(picture, window, first)
        return picture

    def read(self, job: Job) -> Picture | list[Entry]:
        """As `open`, with no window filled yet."""
        samples = self.settings.samples
        outputs = [sample_path(job.output, sample, samples) for sample in range(samples)]
        expected = self._expected(job)
        if self._is_there(outputs, expected):
            return [
                {
                    "schema": SCHEMA,
                    "status": "skipped",
                    "input": expected["input"],
                    "output": {"path": str(path)},
                }
                for path in outputs
            ]
        for path in outputs:
            check_writable(path)
        photo = read_photo(job.image)
        for path in outputs:
            format_of(path)
        mask = read_mask(job.mask, photo, self.settings.mask_settings)
        if mask.hole.all():
            raise InputError(
                f"{job.mask} marks the whole picture as hole: nothing is left to go by",
                "try: --polarity black, if black is the hole in this mask",
            )
        picture = Picture(
            job,
            photo,
            mask.hole,
            outputs,
            expected,
            mask.warnings,
            time.monotonic(),
            [[] for _ in outputs],
        )
        picture.said += [Event("warning", warning) for warning in mask.warnings]
        picture.said += [Event("note", note) for note in mask.notes]
        return picture

    def _expected(self, job: Job) -> Entry:
        """What a finished entry for this job says about where its result came from."""
        look = "look whether it was moved, or the disk is gone"
        check_file(job.image, "picture", look)
        check_file(job.mask, "mask", look)
        try:
            guide: Any = self.guide_record
            if job.guide is not None:
                guide = file_record(job.guide)
            expected = {
                "input": file_record(job.image),
                "mask": file_record(job.mask),
                "guide": guide,
                "weights": self._weights_record,
                "settings": self._settings_record,
            }
            if self.corrects(job):
                files = corrector_files()
                expected["corrector"] = [self._record_of(path) for path in files]
            return expected
        except OSError as error:
            raise InputError(
                f"cannot read {error.filename}: {error.strerror}", "look at its permissions"
            ) from error

    def corrects(self, job: Job) -> bool:
        """Whether the network corrects first results of this job before they are refined."""
        name = self._measured_as(job)
        return name != "none" and wants_correction(self.settings, self.refiner, name)

    def corrector(self, job: Job) -> Guide:
        """The network that corrects first results of this job."""
        name = self._measured_as(job)
        with self._loading:
            if name not in self._correctors:
                device, precision = str(self.refiner.device), self.settings.precision
                self._correctors[name] = load_corrector(name, device, precision)
            return self._correctors[name]

    def _measured_as(self, job: Job) -> str:
        """The name that defaults for this job's first results are kept under."""
        return UNKNOWN_TOOL if job.guide else self.guide_name

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

    def windows_of(self, picture: Picture) -> list[Window]:
        return hole_windows(picture.hole, self.refiner.config.tile, self.settings.context)

    def settle(self, picture: Picture, window: Window, first: NDArray[Any] | None) -> None:
        """Note a window's first result, corrected if that is wanted, and how it is refined.

        Raises:
            GuideError: it cannot be corrected.
        """
        (first,) = self._corrected(picture, [window], [first])
        self._note(picture, window, first)

    def _corrected(
        self, picture: Picture, windows: Sequence[Window], firsts: Sequence[NDArray[Any] | None]
    ) -> Sequence[NDArray[Any] | None]:
        """Windows' first results, corrected together if that is wanted."""
        rgb, hole = picture.photo.rgb, picture.hole
        views = [
            (rgb[window.slices], hole[window.slices], first)
            for window, first in zip(windows, firsts, strict=True)
            if first is not None
        ]
        if not views or not self.corrects(picture.job):
            return firsts
        corrector = self.corrector(picture.job)
        with guide_errors(corrector, max(windows, key=lambda window: window.own.size)):
            return correct_windows(corrector, views)

    def _note(self, picture: Picture, window: Window, first: NDArray[Any] | None) -> None:
        recipe = self._recipe(picture, window, first)
        if first is not None and recipe.sharpen:
            sharp = sharpen_fill(first, picture.hole[window.slices])
            if sharp is not first:  # it may lack less texture than before
                first, recipe = sharp, self._recipe(picture, window, sharp)
                picture.sharpened.append(window.number)
        picture.windows.append((window, first, recipe))

    def _first_results(
        self, picture: Picture, windows: Sequence[Window]
    ) -> Iterator[NDArray[Any] | None]:
        """The guide's result for each window; None starts from noise alone."""
        given = _read_guide(picture) if picture.job.guide else None
        for window in windows:
            if given is not None:
                yield _composite(picture, window, given[window.slices])
            else:
                yield self._fill(self.guide, picture, window) if self.guide else None

    def _fill(self, guide: Guide, picture: Picture, window: Window) -> NDArray[Any]:
        """Run the guide on a window; what it cannot do is an error of this picture alone."""
        sight = self.see(guide, picture, window)
        with guide_errors(guide, window):
            return fill_sights(guide, [sight])[0]

    def see(self, guide: Guide, picture: Picture, window: Window) -> Sight:
        """What the guide is shown to fill a window.

        Raises:
            GuideError: the guide whose result this one corrects fails.
        """
        seed = hole_seed(self.settings.seed, window.number)
        with guide_errors(guide, window):
            return see_window(guide, picture.photo.rgb, picture.hole, window.slices, seed)

    def _recipe(self, picture: Picture, window: Window, guide: NDArray[Any] | None) -> Recipe:
        name = self._measured_as(picture.job)
        missing = None
        if guide is not None and self.settings.tk is None:
            missing = missing_texture(guide, picture.hole[window.slices])
        return resolve_recipe(self.settings, self.refiner, name, missing)

    @property
    def guide_name(self) -> str:
        return self.guide.name if self.guide else "none"


@contextlib.contextmanager
def guide_errors(guide: Guide, window: Window) -> Iterator[None]:
    """Turn what a guide cannot do with a window into an error of that window's picture alone.

    Raises:
        GuideError: for errors of the guide, and for too little memory.
    """
    try:
        yield
    except (WeightsError, UsageError) as error:
        raise GuideError(error.message, error.hint) from error
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise GuideError(
            f"guide {guide.name} ran out of memory with a window of {window.width}x{window.height}",
            "try: --device cpu, or another --guide",
        ) from error


def _composite(picture: Picture, window: Window, guide: NDArray[Any]) -> NDArray[Any]:
    """A window with the guide's pixels in the hole and known ones elsewhere."""
    hole = picture.hole[window.slices]
    return np.where(hole[..., None], guide, picture.photo.rgb[window.slices])


def sample_path(output: Path, sample: int, samples: int) -> Path:
    """Where sample 0, 1, ... goes: NAME.s1.png, NAME.s2.png, ... if there are several."""
    if samples == 1:
        return output
    return output.with_name(f"{output.stem}.s{sample + 1}{output.suffix}")


def _read_guide(picture: Picture) -> NDArray[Any]:
    """Another tool's result for the picture, cut to its size and brought to its type."""
    path, (width, height) = picture.job.guide, picture.photo.size
    assert path is not None
    guide = read_photo(path).rgb
    over_y, over_x = guide.shape[0] - height, guide.shape[1] - width
    if not (0 <= over_y < GUIDE_PADDING and 0 <= over_x < GUIDE_PADDING):
        raise InputError(
            f"guide result and image differ in size: {path} is {guide.shape[1]}x{guide.shape[0]},"
            f" {picture.job.image} is {width}x{height}",
            "make the guide's results at the pictures' own size (LaMa's refine=True shrinks large"
            " ones)",
        )
    guide = guide[:height, :width]
    dtype = picture.photo.rgb.dtype
    if guide.dtype != dtype:
        ratio = np.iinfo(dtype).max / np.iinfo(guide.dtype).max
        guide = np.round(guide * ratio).astype(dtype)
    return guide
