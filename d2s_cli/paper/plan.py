"""Which settings the paper's figures and table need, and which of them cannot be had here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.errors import InputError, UsageError, WeightsError
from d2s_cli.guides.registry import FROM_WEIGHTS, files_here, load_guide
from d2s_cli.images.finding import find_masks, no_mask
from d2s_cli.images.masks import MaskSettings
from d2s_cli.images.picture_sets import find_set
from d2s_cli.recipe import Settings, check_settings, known_steps
from d2s_cli.weights.bundled import find_weights

PARTS = ("figure3", "figure4", "figure6", "table1")
#: MAT and the diffusion guide of figure 3, then the rest of Table 1
GUIDES = ("mat", "palette", "lama", "ddnm", "diffir", "edgeconnect", "m2s", "wavepaint")
#: how many of the guides, from the first on, a figure shows
SHOWN = {"figure3": 2, "figure4": 1, "figure6": 1}
STARTS = tuple(range(100, 501, 50))
TABLES = (500, 1000, 1500, 2000)
#: T of the curve "middle" in figures 3 and 4, and T and T_k of Table 1
FIGURE3_TABLE, FIGURE4_TABLE = 1000, 1500
TABLE1 = (1000, 200)


@dataclass(frozen=True)
class Cell:
    """One setting, whose results lie in one folder.

    Attributes:
        masks: name of the set of masks.
        guide: its name.
        start: "middle" or "start"; "" is the guide alone.
        table: T.
        tk: step to refine from.
    """

    masks: str
    guide: str
    start: str = ""
    table: int = 0
    tk: int = 0

    @property
    def name(self) -> str:
        """Of the setting, apart from masks and guide."""
        if not self.start:
            return "alone"
        return f"start-T{self.table}" if self.start == "start" else f"T{self.table}-tk{self.tk}"

    @property
    def place(self) -> str:
        """Its folder in the sweep's output."""
        return f"{self.masks}/{re.sub(r'[^A-Za-z0-9_-]+', '-', self.guide)}/{self.name}"

    @property
    def alone(self) -> Cell:
        """The guide's own result that this one refines."""
        return Cell(self.masks, self.guide)


@dataclass(frozen=True)
class Sweep:
    """What is swept over.

    Attributes:
        pictures: folder or list of the whole pictures.
        masks: by name ("small", "large"), the folder with a mask for each picture.
        output: folder for everything.
        guides: the first are those of the figures (SHOWN), all are in the table.
        parts: of PARTS.
        starts: T_k of `middle`, and T of `start`.
        tables: T of figure 6.
        limit: this many pictures, the first by name; None takes all.
        steps: network evaluations of a refinement at most; None takes every step, as the paper.
        settings: further fields of Settings: weights, sampler, inject, seed, device, precision,
            batch, mask_settings.
        metrics, preset, features: see evaluation.evaluate.
    """

    pictures: Path
    masks: dict[str, Path]
    output: Path
    guides: tuple[str, ...] = GUIDES
    parts: tuple[str, ...] = PARTS
    starts: tuple[int, ...] = STARTS
    tables: tuple[int, ...] = TABLES
    limit: int | None = None
    steps: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    preset: str = "mat"
    features: str | None = None

    def __post_init__(self) -> None:
        if not self.masks:
            raise UsageError("no masks", "try: --masks small=FOLDER --masks large=FOLDER")
        if wrong := [name for name in self.masks if not re.fullmatch(r"[A-Za-z0-9_-]+", name)]:
            raise UsageError(f"{wrong[0]!r} is no name for masks", "letters, digits, - and _")
        if wrong := [part for part in self.parts if part not in PARTS]:
            raise UsageError(f"unknown --part {wrong[0]!r}", f"one of: {', '.join(PARTS)}")
        if set(self.guides) & {"auto", "none"} or not self.guides:
            raise UsageError("the guides of a sweep are named", f"try: --guide {GUIDES[0]}")
        places = [Cell("", guide).place for guide in self.guides]
        if len(set(places)) < len(places):
            raise UsageError("two guides of one name", "name each --guide once")
        if min((*self.starts, *self.tables), default=0) < 1:
            raise UsageError("--tk and --table-steps take numbers from 1 on")
        if self.limit is not None and self.limit < 1:
            raise UsageError("--limit must be 1 or more")
        for cell in self.cells():
            check_settings(self.settings_of(cell))

    def cells(self) -> list[Cell]:
        """Every setting once; the guide alone before what refines it."""
        found: list[Cell] = []
        for masks in self.masks:
            for number, guide in enumerate(self.guides):
                mine = self._of_guide(masks, guide, number)
                found += [Cell(masks, guide), *mine] if mine else []
        return list(dict.fromkeys(found))

    def _of_guide(self, masks: str, guide: str, number: int) -> list[Cell]:
        cells: list[Cell] = []
        parts = [p for p in self.parts if number < SHOWN.get(p, len(self.guides))]
        if "table1" in parts:
            cells.append(Cell(masks, guide, "middle", *TABLE1))
        if {"figure3", "figure4"} & set(parts):
            cells += [Cell(masks, guide, "start", t, t) for t in self.starts]
        tables = [FIGURE3_TABLE] * ("figure3" in parts) + [FIGURE4_TABLE] * ("figure4" in parts)
        tables += list(self.tables) if "figure6" in parts else []
        for table in dict.fromkeys(tables):
            cells += [Cell(masks, guide, "middle", table, tk) for tk in self.starts if tk <= table]
        return cells

    def settings_of(self, cell: Cell) -> Settings:
        """What the engine is asked to do for a cell."""
        common = {"mask_settings": MaskSettings(source="name"), **self.settings}
        common |= {"guide": cell.guide, "format": "png", "if_exists": "resume"}
        if not cell.start:
            return Settings(**common, tk=0)
        return Settings(
            **common,
            tk=cell.tk,
            steps=self.steps_of(cell),
            table_steps=cell.table,
            start=cell.start,
        )

    def steps_of(self, cell: Cell) -> int:
        """Steps of the refinement of one window; 0 for the guide alone."""
        if not cell.start:
            return 0
        return cell.tk if self.steps is None else min(self.steps, cell.tk)

    def evaluations(self, cell: Cell) -> int:
        """Passes of the refiner for one window: two a step with injection."""
        return self.steps_of(cell) * (2 if self.settings.get("inject") else 1)


@dataclass(frozen=True)
class Planned:
    """A sweep with everything found.

    Attributes:
        pictures: the whole pictures.
        masks: of each picture, in their order, by name of the set.
        cells: to run.
        blocked: those that cannot be had here, with the reason.
        weights: the refiner's file.
    """

    pictures: list[Path]
    masks: dict[str, list[Path]]
    cells: list[Cell]
    blocked: dict[Cell, str]
    weights: Path


def plan(sweep: Sweep) -> Planned:
    """Find pictures, masks, guides and weights before anything runs.

    Raises:
        InputError: no pictures, or one without a mask.
        UsageError: no such guide.
        WeightsError: no refiner.
    """
    pictures = sorted(find_set(sweep.pictures).paths, key=lambda path: path.name)[: sweep.limit]
    if len({path.stem for path in pictures}) < len(pictures):
        raise InputError(f"two pictures of {sweep.pictures} have one name")
    masks = {name: _masks(pictures, folder) for name, folder in sweep.masks.items()}
    weights = find_weights(sweep.settings.get("weights", "d2s-base"))
    refiner = load_refiner(weights)
    lowest = refiner.config.alpha_bar_min
    unusable = {guide: _why_not(guide, lowest) for guide in sweep.guides}
    cells, blocked = [], {}
    for cell in sweep.cells():
        why = unusable[cell.guide]
        if not why and cell.start:
            known = known_steps(lowest, NoiseTable(cell.table))
            if cell.tk > known:
                why = f"the weights {refiner.name} know noise up to step {known} of {cell.table}"
        if why:
            blocked[cell] = why
        else:
            cells.append(cell)
    return Planned(pictures, masks, cells, blocked, weights)


def _masks(pictures: Sequence[Path], folder: Path) -> list[Path]:
    if not folder.exists():
        raise InputError(f"no masks at {folder}", "try: --masks NAME=FOLDER")
    found = []
    for picture in pictures:
        named = find_masks(picture, folder, None, "name")
        if not named:
            raise no_mask(picture, folder)
        if len(named) > 1:
            raise InputError(
                f"{len(named)} masks for {picture} in {folder}", "a sweep takes one for each"
            )
        found.append(named[0])
    return found


def _why_not(guide: str, lowest: float) -> str:
    """Why a guide cannot be used here, "" if it can."""
    if guide not in FROM_WEIGHTS:
        try:
            load_guide(guide)
        except WeightsError as error:
            return error.message
        return ""
    try:
        files_here(guide)
    except WeightsError as error:
        if guide != "palette":
            return error.message
        if lowest > 0:
            return f"{error.message}, and the refiner's weights do not start from noise alone"
    return ""
