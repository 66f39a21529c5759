"""What an evaluation is asked for: its options, its metrics, and whether they can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2s_cli.errors import UsageError
from d2s_cli.images.masks import MaskSettings
from d2s_cli.judged_sets import Sets
from d2s_cli.metrics.scores import ALIASES, METRICS

#: without --metric: those that need no weights
DEFAULT_METRICS = ("psnr", "ssim", "l1")


@dataclass(frozen=True)
class Options:
    """How an evaluation is done.

    Attributes:
        masks: mask file or folder of the pictures.
        mask_settings: how masks are read.
        pair: "name" or "order", see picture_sets.pair_sets.
        matched_only: leave out pictures that one side lacks.
        recursive: go into subfolders.
        features: torchscript:FILE or onnx:FILE instead of FID's network.
        metric_weights: files by name of weights (metrics.weights.FILES); several for one name are
            read together.
        save_stats: .npz to write the statistics of the reference to.
        cache: folder that keeps statistics of references; None takes the platform's, False none.
        bootstrap: resamples for confidence intervals of every score; None takes 1000 for means over
            pictures and none for scores of whole sets, which cost a computation for each.
        batch: pictures that go through a network together.
        workers: threads that read pictures; 0 reads between the networks' work.
        device: see runtime.pick.
        seed: of the bootstrap.
    """

    masks: str | Path | None = None
    mask_settings: MaskSettings = field(default_factory=MaskSettings)
    pair: str = "name"
    matched_only: bool = False
    recursive: bool = False
    features: str | None = None
    metric_weights: dict[str, list[Path]] = field(default_factory=dict)
    save_stats: Path | None = None
    cache: Path | bool | None = None
    bootstrap: int | None = None
    batch: int = 16
    workers: int = 2
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.workers < 0:
            raise UsageError("--batch-size must be at least 1, --workers at least 0")


def metric_names(
    wanted: Sequence[str] | str | None, own_features: bool = False, masks: bool = False
) -> list[str]:
    """Names of METRICS, each once; the defaults if none is wanted.

    Raises:
        UsageError: there is no such metric.
    """
    if wanted is None or not len(wanted):
        if own_features:
            return ["frechet"]
        return [*DEFAULT_METRICS, *(["seam"] if masks else [])]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    names = list(dict.fromkeys(ALIASES.get(name.lower(), name.lower()) for name in names))
    if wrong := [name for name in names if name not in METRICS]:
        raise UsageError(f"unknown metric {wrong[0]!r}", f"one of: {', '.join(METRICS)}")
    return names


def check_needs(names: Sequence[str], sets: Sets, settings: Options) -> None:
    """Raises UsageError where a metric needs what these sets and options do not give."""
    if settings.features is not None:
        for name in ("fid", "is"):
            if name in names:
                raise UsageError(
                    f"{name} is defined by its own network, not by {settings.features}",
                    "try: --metric frechet",
                )
    elif "frechet" in names:
        raise UsageError("frechet needs --features", "or try: --metric fid")
    for name in names:
        needs = METRICS[name].needs
        if needs == "holes" and not sets.has_masks:
            raise UsageError(
                f"{name} needs the holes",
                "try: --masks FOLDER, or a run's folder with its manifest",
            )
        if needs in ("pairs", "paired features", "features") and not sets.has_reference:
            raise UsageError(
                f"{name} compares with the true pictures, and there are none",
                f"try: --reference FOLDER{sets.reference_hint}",
            )
        if needs == "pairs" and not sets.paired:
            raise UsageError(
                f"{name} compares pictures one by one, which statistics do not have",
                "give two folders or lists",
            )
