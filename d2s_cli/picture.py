"""A picture under way, from its windows to its results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s_cli.events import Event
from d2s_cli.images.colour_detail import calm_colour
from d2s_cli.images.pairing import Job
from d2s_cli.images.photo import Photo
from d2s_cli.images.regions import Window
from d2s_cli.manifest import Entry
from d2s_cli.recipe import Recipe


@dataclass
class Picture:
    """A picture under way.

    Attributes:
        windows: each with its first result (None starts from noise) and its recipe.
        said: warnings and notes for people.
        expected: what a finished entry of exactly this work says (see Manifest.is_current).
        patches: finished windows so far, by sample.
        waiting: results of windows that are not there yet.
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
    windows: list[tuple[Window, NDArray[Any] | None, Recipe]] = field(default_factory=list)
    said: list[Event] = field(default_factory=list)
    waiting: int = 0
    sharpened: list[int] = field(default_factory=list)

    def deliver(self, window: Window, sample: int, result: NDArray[Any]) -> None:
        self.patches[sample].append((window, result))
        self.waiting -= 1

    def deliver_refined(self, window: Window, sample: int, result: NDArray[Any]) -> None:
        self.deliver(window, sample, calm_colour(result, self.hole[window.slices]))

    def restored(self, sample: int) -> NDArray[Any]:
        """The photo with the hole pixels that its windows answer for."""
        rgb = self.photo.rgb.copy()
        for window, patch in self.patches[sample]:
            rgb[window.slices][window.own] = patch[window.own]
        return rgb
