"""Closing a picture: put the windows back, write the results, read them back, say what was done."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path

from d2s_cli import __version__
from d2s_cli.errors import D2SError, InputError
from d2s_cli.events import Event
from d2s_cli.images.formats import format_of, is_lossless
from d2s_cli.images.writing import (
    WriteSettings,
    changed_known_pixels,
    copy_photo,
    fill_hole,
    write_photo,
)
from d2s_cli.manifest import SCHEMA, Entry, failure, file_record
from d2s_cli.picture import Picture
from d2s_cli.recipe import Settings
from d2s_cli.runtime import Compute, give_back_memory

#: what ends the work on one picture and not the run
PICTURE_ERRORS = (InputError, MemoryError)


class Closer:
    """Writes the results of one run.

    Args:
        settings: of the run.
        compute: what it ran on, for the manifest.
    """

    def __init__(self, settings: Settings, compute: Compute) -> None:
        self.settings, self.compute = settings, compute

    def close(self, picture: Picture) -> list[Entry]:
        """Write every sample; one entry for each, or for its failure. Adds to `picture.said`."""
        entries = []
        for sample, path in enumerate(picture.outputs):
            try:
                entries.append(self._write(picture, sample, path))
            except PICTURE_ERRORS as error:
                image = picture.job.image
                entries.append(failure(image, path, of_picture(image, error)))
        give_back_memory()
        return entries

    def _write(self, picture: Picture, sample: int, path: Path) -> Entry:
        photo, hole = picture.photo, picture.hole
        self._write_file(picture, sample, path)
        change = changed_known_pixels(photo, hole, path) if self.settings.verify else None
        if sample == 0:
            image = picture.job.image
            picture.said += [Event("note", f"{image}: {note}") for note in photo.notes]
        recipes = [recipe for _, _, recipe in picture.windows]
        patches = sorted(picture.patches[sample], key=lambda patch: patch[0].number)
        return {
            "schema": SCHEMA,
            "status": "done" if hole.any() else "copied",
            **picture.expected,
            "output": file_record(path),
            "sample": sample + 1,
            "seed": self.settings.seed,
            "width": photo.size[0],
            "height": photo.size[1],
            "hole_share": round(float(hole.mean()), 6),
            "boxes": [[w.left, w.top, w.width, w.height] for w, _ in patches],
            "preset": self.settings.preset,
            "tk": [r.tk for r in recipes],
            "sharpened": sorted(picture.sharpened),
            "steps": recipes[0].steps if recipes else None,
            "sampler": recipes[0].sampler if recipes else None,
            "inject": recipes[0].inject if recipes else None,
            "device": str(self.compute),
            "d2s": __version__,
            "torch": version("torch"),
            "seconds": round(time.monotonic() - picture.began, 3),
            "changed_outside": change and change.count,
            "changed_outside_max": change and change.largest,
            "changed_outside_mean": change and round(change.mean, 6),
            "lossless": is_lossless(path, self.settings.quality),
            "warnings": picture.warnings + photo.notes,
        }

    def _write_file(self, picture: Picture, sample: int, path: Path) -> None:
        photo, options = picture.photo, WriteSettings(self.settings.quality, self.settings.metadata)
        same = format_of(path) == photo.format and options == WriteSettings()
        if same and not picture.hole.any():
            copy_photo(photo, path)
            photo.notes.clear()
        else:
            filled = fill_hole(photo, picture.restored(sample), picture.hole)
            write_photo(photo, filled, path, options)


def of_picture(image: Path, error: D2SError | MemoryError) -> D2SError:
    """The error as one of the picture."""
    if isinstance(error, D2SError):
        return error
    return InputError(
        f"not enough memory for {image}", "cut the picture into parts, and restore each"
    )
