"""What a run is asked to do, and the settings that follow from it for each window."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.diffusion.sampling import SAMPLERS
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.errors import UsageError
from d2s_cli.guides.registry import WeightsPaths
from d2s_cli.images.formats import suffix_for
from d2s_cli.images.masks import MaskSettings
from d2s_cli.images.metadata import check_policy

IF_EXISTS = ("error", "skip", "overwrite", "resume")


@dataclass(frozen=True)
class Settings:
    """How pictures are restored. None means: the preset's, else what the weights recommend for this
    guide.

    Attributes:
        preset: a key of PRESETS.
        guide: name of the guide; "none" starts from noise alone.
        guide_weights: file, files or folder of the guide's checkpoints; None takes those installed.
        guide_options: settings of the guide, by name.
        weights: bundled name or file of the refiner.
        tk: step to refine from; 0 leaves the guide's result as it is.
        steps: network evaluations.
        sampler: a key of sampling.SAMPLERS.
        table_steps: T of the noise table.
        start: "middle" or "start".
        inject: feed the guide's features in (eq. 15 to 17).
        correct: have the bundled network correct the guide's result before it is refined.
        spacing: of the step grid.
        seed, samples: noise; samples beyond 1 are further results of each hole.
        device, precision: see runtime.pick.
        batch: windows of 256 x 256 at a time; None picks by device.
        workers: pictures read and filled at a time beside the network; 0 does one thing at a time,
            None picks by device.
        context: pixels of surroundings in a window; None picks by the hole's size.
        mask_settings: how mask files are read.
        format: of results: keep, png, jpeg, webp or tiff.
        quality: of JPEG and WebP; None keeps a JPEG source's tables, and writes WebP without loss.
        metadata: keep, private or drop.
        if_exists: error, skip, overwrite, or resume (redo what is missing, broken, or made from
            other inputs, weights or settings).
        verify: read results back and count changed known pixels.
    """

    preset: str = "balanced"
    guide: str = "auto"
    guide_weights: WeightsPaths | None = None
    guide_options: dict[str, Any] = field(default_factory=dict)
    weights: str = "d2s-base"
    tk: int | None = None
    steps: int | None = None
    sampler: str | None = None
    table_steps: int = 1000
    start: str = "middle"
    inject: bool | None = None
    correct: bool | None = None
    spacing: str | None = None
    seed: int = 0
    samples: int = 1
    device: str = "auto"
    precision: str = "auto"
    batch: int | None = None
    workers: int | None = None
    context: int | None = None
    mask_settings: MaskSettings = field(default_factory=MaskSettings)
    format: str = "keep"
    quality: int | None = None
    metadata: str = "keep"
    if_exists: str = "error"
    verify: bool = True


#: settings by name, for those that the user left open: the paper's of its Table 1 (with every step
#: of the table, see with_preset); the weights' measured ones; as few steps as keep their quality
#: (benchmarks/solver_ab.md)
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"tk": 200, "sampler": "ddpm", "inject": True, "correct": False, "spacing": "time"},
    "balanced": {},
    "fast": {"steps": 3},
}

#: the table that measured defaults are given for
MEASURED_ON = NoiseTable(1000)


@dataclass(frozen=True)
class Recipe:
    """Refinement settings with nothing left open; equal ones can share a batch.

    Attributes:
        tk, steps, sampler, inject, spacing, table, start: for Refiner.refine.
        sharpen: bring back a soft result's detail before (images.sharpening).
        correct: have a network correct the first result before (guides.neural).
    """

    tk: int
    steps: int | None
    sampler: str
    inject: bool
    spacing: str
    table: NoiseTable
    start: str
    sharpen: bool = False
    correct: bool = False


#: used where the weights' header says nothing: the paper's T_k with a fast stochastic solver;
#: "uncorrected" holds what is otherwise for first results that no network corrects
FALLBACK: dict[str, Any] = {
    "tk": 200,
    "steps": 20,
    "sampler": "dpmpp-sde",
    "inject": True,
    "spacing": "time",
    "texture_gain": None,
    "sharpen": False,
    "correct": False,
    "uncorrected": {},
}
#: adapted starts are rounded down to a multiple of this, so that few different ones meet in a
#: batch, and to 0 below it
TK_STEP = 5


def with_preset(settings: Settings) -> Settings:
    """The settings with what the user left open filled in by the preset.

    Raises:
        UsageError: there is no such preset.
    """
    if settings.preset not in PRESETS:
        raise UsageError(f"unknown preset {settings.preset!r}", f"one of: {', '.join(PRESETS)}")
    chosen = dict(PRESETS[settings.preset])
    if settings.preset == "paper":
        whole = settings.start == "start" or settings.guide == "none"
        tk = chosen["tk"] if settings.tk is None else settings.tk
        chosen["steps"] = settings.table_steps if whole else tk
    given = {name: value for name in chosen if (value := getattr(settings, name)) is not None}
    return dataclasses.replace(settings, **(chosen | given))


def resolve_recipe(
    settings: Settings, refiner: Refiner, guide_name: str, missing: float | None = None
) -> Recipe:
    """Settings that the user left open come from the weights' measured defaults for this guide.

    Args:
        settings: as the user gave them.
        refiner: whose header holds the defaults.
        guide_name: "*" for results of a tool that is not known.
        missing: texture that the guide's result lacks (images.texture.missing_texture); adapts the
            start where the defaults say so. None takes the default start.

    Raises:
        UsageError: a start outside the noise levels that the weights were trained on.
    """
    chosen = FALLBACK | measured_defaults(refiner, guide_name)
    corrected = guide_name != "none" and wants_correction(settings, refiner, guide_name)
    if not corrected:
        chosen |= chosen["uncorrected"]
    for name in ("tk", "steps", "sampler", "inject", "spacing"):
        if (value := getattr(settings, name)) is not None:
            chosen[name] = value
    table = NoiseTable(settings.table_steps)
    tk, adapted = int(chosen["tk"]), False
    if settings.start == "start" or guide_name == "none":
        tk = table.steps
    elif settings.tk is None:
        gain = chosen["texture_gain"]
        if gain is not None and missing is not None:
            tk = adapted_tk(missing, gain, tk)
        tk, adapted = _same_noise(tk, table), True
    steps = chosen["steps"]
    # who gave steps but no T_k cannot know that this window's has fewer
    if steps is not None and tk > 0 and (settings.steps is None or adapted):
        steps = min(int(steps), tk)
    _check_noise_is_known(refiner, guide_name, tk, table)
    return Recipe(
        tk,
        steps,
        chosen["sampler"],
        bool(chosen["inject"]),
        chosen["spacing"],
        table,
        settings.start,
        bool(chosen["sharpen"]) and settings.tk is None,
        corrected,
    )


def measured_defaults(refiner: Refiner, guide_name: str) -> dict[str, Any]:
    """What the weights' header says for a guide, or for any that it does not name."""
    measured = refiner.config.defaults
    return measured.get(guide_name, measured.get("*", {}))


def wants_correction(settings: Settings, refiner: Refiner, guide_name: str) -> bool:
    """Whether first results of a guide are corrected: as asked; else as measured, but not where the
    user chose T_k, which is for refining the guide's result as it is."""
    if settings.correct is not None:
        return settings.correct
    correct = measured_defaults(refiner, guide_name).get("correct", FALLBACK["correct"])
    return bool(correct) and settings.tk is None


def adapted_tk(missing: float, gain: float, largest: int) -> int:
    """The step of MEASURED_ON whose noise is `gain` times as strong as the texture that lacks.

    Noise below the texture cannot grow into it; noise above it stays behind as speckle, most of
    all where the surroundings are flat.

    Args:
        missing: standard deviation in 8-bit levels.
        gain: measured, see benchmarks/.
        largest: never above this step.

    Returns:
        0 (leave the guide's result as it is) to `largest`, a multiple of TK_STEP or `largest`.
    """
    sigma = gain * missing / 127.5
    allowed = MEASURED_ON.alpha_bar[:largest] >= 1 / (1 + sigma**2)
    tk = int(allowed.sum())
    return tk if tk == largest else tk // TK_STEP * TK_STEP


def _same_noise(tk: int, table: NoiseTable) -> int:
    """The step of `table` with the noise that MEASURED_ON has at `tk`."""
    if tk == 0 or table == MEASURED_ON:
        return tk
    level = MEASURED_ON.at(tk)
    return max(1, int((table.alpha_bar >= level * (1 - 1e-9)).sum()))


def known_steps(lowest: float, table: NoiseTable) -> int:
    """The last step of a table whose noise weights know; `lowest` is their alpha_bar_min."""
    return int((table.alpha_bar >= lowest * 0.999).sum())


def _check_noise_is_known(refiner: Refiner, guide_name: str, tk: int, table: NoiseTable) -> None:
    allowed = known_steps(refiner.config.alpha_bar_min, table)
    if min(tk, table.steps) <= allowed:
        return
    raise UsageError(
        f"the weights {refiner.name} know noise up to step {allowed} of a {table.steps}-step"
        f" table; this run starts at step {tk}",
        f"try: --tk {allowed}"
        + (", a --guide," if guide_name == "none" else "")
        + " or --weights FILE of a refiner trained on the whole table",
    )


def check_settings(settings: Settings) -> None:
    """Raise UsageError for values that no run can have."""
    if settings.samples < 1:
        raise UsageError(f"--samples must be 1 or more, not {settings.samples}")
    if settings.tk is not None and not 0 <= settings.tk <= settings.table_steps:
        raise UsageError(
            f"--tk must lie between 0 and the table's {settings.table_steps} steps,"
            f" not {settings.tk}"
        )
    # said here, since these are used nowhere if no window is refined
    if settings.steps is not None and settings.steps < 1:
        raise UsageError(f"--steps must be 1 or more, not {settings.steps}")
    for option, value, known in (
        ("sampler", settings.sampler, tuple(SAMPLERS)),
        ("start", settings.start, ("middle", "start")),
        ("if-exists", settings.if_exists, IF_EXISTS),
    ):
        if value is not None and value not in known:
            raise UsageError(f"unknown --{option} {value!r}", f"one of: {', '.join(known)}")
    if settings.guide == "none" and (settings.guide_weights or settings.guide_options):
        raise UsageError("--guide none has no --guide-weights or --guide-option")
    if reserved := settings.guide_options.keys() & {"name", "weights", "device"}:
        raise UsageError(
            f"{', '.join(sorted(reserved))} is no option of a guide",
            "see --guide, --guide-weights and --device",
        )
    suffix_for("", settings.format)
    check_policy(settings.metadata)
    if settings.batch is not None and settings.batch < 1:
        raise UsageError(f"--batch-size must be 1 or more, not {settings.batch}")
