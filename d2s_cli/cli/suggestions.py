"""What completion offers as values. Plain names, since completing must not load torch or numpy.

`tests/test_completions.py` compares each list with what the program accepts.
"""

from __future__ import annotations

from collections.abc import Callable

GUIDES = (
    *("auto", "patchmatch", "telea", "ns", "neural", "lama", "mat", "wavepaint"),
    *("edgeconnect", "diffir", "m2s", "ddnm", "palette", "none"),
)
#: followed by a file or a command
GUIDE_PREFIXES = ("onnx:", "torchscript:", "cmd:")
QUALITY_PRESETS = ("paper", "balanced", "fast")
SAMPLERS = ("ddpm", "ddpm-beta", "ddim", "dpmpp", "dpmpp-sde", "unipc")
STARTS = ("middle", "start")
POLARITIES = ("white", "black", "auto")
MASK_SOURCES = ("auto", "name", "alpha", "color=#")
FITS = ("error", "resize", "pad")
IF_EXISTS = ("error", "skip", "overwrite", "resume")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
PRESETS = ("modern", "paper")
BENCH_PARTS = ("network", "refine", "photos")
MODELS = ("refiner", "guide")
DATA = ("crops", "aligned")
TRAINING_MASKS = ("paper", "mixed")
LR_SCHEDULES = ("constant", "cosine")
MAKE_FROM = ("alpha", "color=#", "diff", "random")
MASK_KINDS = (
    "irregular-thin",
    "irregular-medium",
    "irregular-thick",
    "mat-large",
    "mat-small",
    "box",
    "scratches",
    "mix",
)
JOINS = ("union", "intersect", "subtract")
METRICS = (
    "fid",
    "kid",
    "is",
    "pids",
    "uids",
    "frechet",
    "psnr",
    "ssim",
    "ssim-flat",
    "ssim-padded",
    "l1",
    "lpips-alex",
    "lpips-vgg",
    "seam",
)
EVALUATION_PRESETS = ("mat", "tf", "pytorch-fid", "clean")
PAIRINGS = ("name", "order")
RESIZE_FILTERS = ("lanczos", "bicubic", "bilinear", "box")
PAPER_PARTS = ("figure3", "figure4", "figure6", "table1")
WEIGHTS_KINDS = ("refiner", "guide", "metric")
SHELLS = ("bash", "zsh", "fish", "powershell")


def one_of(names: tuple[str, ...]) -> Callable[[], list[str]]:
    """An `autocompletion` that offers the names; typer keeps those that fit what was typed."""
    return lambda: list(names)


def weights_names() -> list[str]:
    """What --weights takes by name: bundled and installed refiners."""
    from d2s_cli.weights.bundled import bundled_weights
    from d2s_cli.weights.store import installed

    refiners = [name for name, entry in installed().items() if entry.kind == "refiner"]
    return [*bundled_weights(), *refiners]


def guides() -> list[str]:
    """Names and prefixes for --guide, those of installed plug-ins too."""
    from d2s_cli.guides.plugins import find_plugins

    *ours, none = GUIDES
    return list(dict.fromkeys((*ours, *find_plugins(), none, *GUIDE_PREFIXES)))


def published_names() -> list[str]:
    """Every entry that `d2s weights` knows."""
    from d2s_cli.weights.manifest import manifest

    return list(manifest())


def installed_names() -> list[str]:
    """Every entry in the store."""
    from d2s_cli.weights.store import installed

    return list(installed())
