"""Results as a user gets them: made by `d2s_cli.inpaint`, and kept in a folder.

Every chain has a folder of its own; a digest of the weights that it may use is part of its name.
The run there is one with --if-exists resume, so only what is missing, or was made from other
pictures, masks or settings, is made again. After a change of d2s itself, delete the folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import d2s_cli as d2s
from d2s_cli.events import Event
from d2s_cli.guides import patchmatch
from d2s_cli.guides.correctors import corrector_files
from d2s_cli.guides.registry import FROM_WEIGHTS, best_here, files_here
from d2s_cli.manifest import FINISHED, Entry, file_record
from d2s_cli.weights.bundled import DEFAULT_WEIGHTS, find_weights
from quality_parts.crops import CropSet, Holes, Pictures, read_crops

#: of the guide's own result; the engine leaves it as it is
ALONE: dict[str, Any] = {"tk": 0, "correct": False}


@dataclass(frozen=True)
class Chain:
    """One way to fill holes with d2s.

    Attributes:
        guide: as after --guide.
        settings: further fields of d2s_cli.recipe.Settings; none are the defaults.
        label: for tables.
    """

    guide: str
    settings: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def refines(self) -> bool:
        return self.settings != ALONE

    def weights(self) -> list[Path]:
        """The files that its results may depend on."""
        guide = best_here() if self.guide == "auto" else self.guide
        paths = files_here(guide) if guide in FROM_WEIGHTS else []
        if self.refines:
            paths = [*paths, find_weights(self.settings.get("weights", DEFAULT_WEIGHTS))]
            if self.settings.get("correct") is not False:
                paths += corrector_files()
        return list(dict.fromkeys(paths))

    @property
    def folder_name(self) -> str:
        parts = [f"{key}={value}" for key, value in sorted(self.settings.items())]
        digest = hashlib.sha256()
        for path in self.weights():
            digest.update(file_record(path)["sha256"].encode())
        return "-".join([self.guide, *parts, digest.hexdigest()[:8]])


def write_masks(crops: CropSet, cache: Path) -> Path:
    """A folder with a mask file for each crop, white in the hole."""
    folder = cache / "masks" / crops.file_name
    folder.mkdir(parents=True, exist_ok=True)
    for path, hole in zip(crops.paths, crops.holes, strict=True):
        Image.fromarray(hole).save(folder / f"{path.stem}.png")
    return folder


def results_of(chain: Chain, crops: CropSet, cache: Path) -> tuple[Pictures, list[Entry]]:
    """Results for the crops, uint8 N x 256 x 256 x 3, and the manifest's entries made now.

    Ends the program if a crop fails.
    """
    masks = write_masks(crops, cache)
    output = cache / crops.file_name / chain.folder_name
    settings = chain.settings | {"guide": chain.guide, "if_exists": "resume"}
    entries = d2s.inpaint(crops.paths, mask=masks, output=output, report=_warn, **settings)
    if bad := [entry for entry in entries if entry["status"] not in (*FINISHED, "skipped")]:
        raise SystemExit(f"{chain.guide} {chain.label}: {bad[0]['error']['message']}")
    made = [entry for entry in entries if entry["status"] in FINISHED]
    return read_crops([output / path.name for path in crops.paths]), made


def _warn(event: Event) -> None:
    if event.kind == "warning":
        print(f"warning: {event.text}", flush=True)


def remember_patchmatch(cache: Path) -> None:
    """Have PatchMatch's fills kept too: several chains begin with the same ones.

    The same pixels, hole and seed give the same fill, so the results stay those of the command.
    """
    folder = cache / "patchmatch"
    folder.mkdir(parents=True, exist_ok=True)
    patchmatch._patchmatch_fill = remembered(patchmatch._patchmatch_fill, folder)


def remembered(
    fill: Callable[[Pictures, Holes, int], Pictures], folder: Path
) -> Callable[[Pictures, Holes, int], Pictures]:
    """The function, with its results kept as files in `folder`."""

    def kept(picture: Pictures, hole: Holes, seed: int) -> Pictures:
        key = hashlib.sha256(f"{picture.shape} {seed} ".encode())
        key.update(picture.tobytes() + hole.tobytes())
        path = folder / f"{key.hexdigest()[:24]}.npy"
        if path.is_file():
            return np.asarray(np.load(path))
        filled = fill(picture, hole, seed)
        partial = path.with_suffix(".part.npy")
        np.save(partial, filled)
        partial.replace(path)
        return filled

    return kept


def chains_of(guide: str) -> tuple[Chain, Chain]:
    """A guide alone, and as `d2s inpaint --guide NAME` leaves it at its defaults."""
    return Chain(guide, ALONE, "alone"), Chain(guide, {}, "d2s inpaint")
