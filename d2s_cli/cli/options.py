"""Options that inpaint and refine share, each written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2s_cli.cli import suggestions
from d2s_cli.cli.suggestions import one_of
from d2s_cli.errors import UsageError

if TYPE_CHECKING:
    from d2s_cli.images.selection import Selection

MASKS, REFINE, OUT, DEVICE = "Masks", "Guide and refinement", "Output", "Device"

Inputs = Annotated[
    list[Path],
    typer.Argument(
        help="Images and folders; - reads one image from stdin.",
        show_default=False,
        metavar="INPUTS...",
    ),
]
Recursive = Annotated[
    bool,
    typer.Option("--recursive", "-r", help="Go into subfolders; the tree is kept in the output."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="GLOB",
        show_default="all",
        help="Only pictures whose name fits, such as 'scan*.tif'; one with a slash fits the path"
        " below the folder, such as 'album/*'. Repeatable.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        show_default="none",
        help="Leave out pictures whose name or path fits. Repeatable.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        show_default="all",
        help="Only the first N pictures, to try settings on. The same command without it does the"
        " rest.",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        "-m",
        rich_help_panel=MASKS,
        metavar="PATH",
        show_default=False,
        help="One mask for every image, or a folder of masks matched by name. Without it, masks"
        " beside the images: NAME_mask*, NAME-mask, NAME.mask, masks/NAME.",
    ),
]
MaskFrom = Annotated[
    str,
    typer.Option(
        "--mask-from",
        rich_help_panel=MASKS,
        metavar="SOURCE",
        autocompletion=one_of(suggestions.MASK_SOURCES),
        help="auto (--mask, else a mask beside the image, else its alpha if it has transparent"
        " pixels), name (no alpha), alpha, or color=#RRGGBB (a key colour in the image).",
    ),
]
Polarity = Annotated[
    str,
    typer.Option(
        rich_help_panel=MASKS,
        autocompletion=one_of(suggestions.POLARITIES),
        help="Which side of a mask is the hole: white, black, or auto (the one that covers less of"
        " the picture and its border; what was decided is said).",
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--mask-threshold",
        rich_help_panel=MASKS,
        min=0.0,
        max=1.0,
        help="Grey level from which a mask pixel is white, or transparency from which it is hole.",
    ),
]
Grow = Annotated[
    int,
    typer.Option(
        "--grow",
        rich_help_panel=MASKS,
        metavar="PX",
        help="Grow the hole by PX pixels; negative shrinks it.",
    ),
]
FitMask = Annotated[
    str,
    typer.Option(
        "--fit-mask",
        rich_help_panel=MASKS,
        metavar="MODE",
        autocompletion=one_of(suggestions.FITS),
        help="When sizes differ: error, resize (stretch the mask), or pad (cut it, or add known"
        " pixels, at the right and bottom).",
    ),
]
MaskName = Annotated[
    list[str] | None,
    typer.Option(
        "--mask-name",
        rich_help_panel=MASKS,
        metavar="PATTERN",
        show_default="the names above",
        help="How masks are named, beside the images or in the folder of masks, such as"
        " '{stem}_hole*' or 'holes/{stem}'. Repeatable.",
    ),
]
Guide = Annotated[
    str,
    typer.Option(
        "--guide",
        "-g",
        rich_help_panel=REFINE,
        envvar="D2S_GUIDE",
        metavar="NAME",
        autocompletion=suggestions.guides,
        help="First result from: auto (the best one here); patchmatch, telea, ns (no weights);"
        " neural (made by d2s train --model guide); lama, mat, wavepaint, edgeconnect, diffir, m2s,"
        " ddnm, palette (from their published weights); onnx:FILE, torchscript:FILE (runs code that"
        ' the file holds); any program, cmd:"PROGRAM {image} {mask} {output}"; a name that an'
        " installed plug-in brings; or none, to start from noise (needs weights trained on the"
        " whole noise table). See d2s guides list.",
    ),
]
GuideWeights = Annotated[
    list[Path] | None,
    typer.Option(
        "--guide-weights",
        rich_help_panel=REFINE,
        metavar="PATH",
        show_default="those installed",
        help="The guide's checkpoint; repeat it, or give a folder, for guides of several files.",
    ),
]
GuideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--guide-option",
        rich_help_panel=REFINE,
        metavar="NAME=VALUE",
        show_default=False,
        help="A setting of the guide, such as timeout=60 of cmd:. Repeat it for several.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        rich_help_panel=REFINE,
        envvar="D2S_WEIGHTS",
        metavar="NAME|FILE",
        autocompletion=suggestions.weights_names,
        help="Refinement weights: a bundled or installed name, a .safetensors, or a published"
        " Palette checkpoint (.pth).",
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        rich_help_panel=REFINE,
        metavar="NAME",
        autocompletion=one_of(suggestions.QUALITY_PRESETS),
        help="For what is not given below: balanced (measured best for the guide), fast (as few"
        " steps as keep its quality) or paper (T_k 200, every step of the table by the ancestral"
        " sampler, injection, no correction).",
    ),
]
Tk = Annotated[
    int | None,
    typer.Option(
        "--tk",
        "-t",
        rich_help_panel=REFINE,
        metavar="N",
        show_default="what was measured best for the guide",
        help="Noise step to refine from. Small keeps the guide's result, large invents more, 0"
        " leaves it as it is.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        rich_help_panel=REFINE,
        metavar="N",
        min=1,
        show_default="measured; --steps equal to --tk walks the whole table",
        help="Denoising steps from there.",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        rich_help_panel=REFINE,
        show_default="measured",
        autocompletion=one_of(suggestions.SAMPLERS),
        help="ddpm (the paper's, posterior step), ddpm-beta (its eq. 13), ddim, dpmpp, dpmpp-sde"
        " or unipc.",
    ),
]
TableSteps = Annotated[
    int,
    typer.Option(
        "--table-steps",
        rich_help_panel=REFINE,
        metavar="T",
        min=1,
        help="Length of the noise table, T in the paper.",
    ),
]
Start = Annotated[
    str,
    typer.Option(
        "--start",
        rich_help_panel=REFINE,
        autocompletion=one_of(suggestions.STARTS),
        help="middle (begin at T_k, algorithm 3) or start (run the whole of a table of"
        " --table-steps, algorithm 2).",
    ),
]
Inject = Annotated[
    bool | None,
    typer.Option(
        "--inject/--no-inject",
        rich_help_panel=REFINE,
        show_default="measured",
        help="Feed the guide in at the deepest features at every step (eq. 15 to 17).",
    ),
]
Correct = Annotated[
    bool | None,
    typer.Option(
        "--correct/--no-correct",
        rich_help_panel=REFINE,
        show_default="measured for the guide; no, if --tk is given",
        help="Have the bundled network correct the guide's result before it is refined.",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples", rich_help_panel=REFINE, min=1, metavar="N", help="Different results per hole."
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        rich_help_panel=REFINE,
        metavar="N",
        help="A hole gets the same noise alone, in a batch or after a restart.",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        rich_help_panel=REFINE,
        metavar="PX",
        show_default="half the hole, 16 to 128",
        min=0,
        help="Surroundings that the network sees on each side of a hole.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        rich_help_panel=OUT,
        metavar="PATH",
        show_default="NAME_d2s beside a file, FOLDER_d2s/ for a folder",
        help="File for one result, else folder; - for stdout.",
    ),
]
IfExists = Annotated[
    str | None,
    typer.Option(
        "--if-exists",
        rich_help_panel=OUT,
        show_default="resume for folders, error for one file",
        autocompletion=one_of(suggestions.IF_EXISTS),
        help="error, skip, overwrite or resume: redo what is missing, broken, or made from other"
        " inputs, weights or settings.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", "-f", rich_help_panel=OUT, help="Same as --if-exists overwrite."),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        rich_help_panel=OUT,
        metavar="NAME",
        help="Of the results: keep (as the input), png, jpeg, webp or tiff.",
    ),
]
Metadata = Annotated[
    str,
    typer.Option(
        "--metadata",
        rich_help_panel=OUT,
        metavar="MODE",
        help="keep, private (drop place, names, serial numbers, maker notes, text and thumbnail)"
        " or drop (all but orientation and colour profile).",
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality",
        rich_help_panel=OUT,
        min=1,
        max=100,
        show_default="the source's own JPEG tables; WebP without loss",
        help="Of JPEG and WebP.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        "-d",
        rich_help_panel=DEVICE,
        envvar="D2S_DEVICE",
        autocompletion=one_of(suggestions.DEVICES),
        help="auto, cpu, cuda, cuda:N or mps. A named device is never swapped for another.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        rich_help_panel=DEVICE,
        envvar="D2S_PRECISION",
        autocompletion=one_of(suggestions.PRECISIONS),
        help="auto, fp32, bf16 or fp16.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        rich_help_panel=DEVICE,
        metavar="N",
        show_default="4 on CPU, 16 on CUDA",
        help="Windows of 256x256 that are worked on together.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        rich_help_panel=DEVICE,
        metavar="N",
        min=0,
        max=64,
        show_default="by device and cores",
        help="Pictures read, filled by the guide and written beside the network; 0 does one thing"
        " at a time.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")
]
PrintPaths = Annotated[
    bool, typer.Option("--print-paths", help="Print each written path on stdout.")
]
Null = Annotated[
    bool,
    typer.Option("--null", "-0", help="End printed paths with NUL instead of a newline."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        rich_help_panel=OUT,
        help="Print what would be done, picture by picture, and do nothing.",
    ),
]
Progress = Annotated[
    str,
    typer.Option(
        "--progress",
        metavar="MODE",
        envvar="D2S_PROGRESS",
        help="auto, bar, plain (a line every 10 s), json (a line for each event) or none. On"
        " stderr.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]


def selection(include: list[str] | None, exclude: list[str] | None, limit: int | None) -> Selection:
    """--include, --exclude and --limit as the plan takes them."""
    from d2s_cli.images.selection import Selection

    return Selection(tuple(include or ()), tuple(exclude or ()), limit)


def guide_options(given: list[str] | None) -> dict[str, Any]:
    """--guide-option NAME=VALUE to values: whole numbers, numbers, true and false, else text."""
    options: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageError(
                f"--guide-option takes NAME=VALUE, not {text!r}", "try: --guide-option timeout=60"
            )
        if name in options:
            raise UsageError(f"--guide-option {name} is given twice")
        options[name] = _value(value.strip())
    return options


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def restore_settings(
    inputs: list[Path],
    mask_from: str,
    polarity: str,
    threshold: float,
    grow: int,
    fit_mask: str,
    mask_name: list[str] | None,
    if_exists: str | None,
    force: bool,
    **settings: Any,
) -> dict[str, Any]:
    """Command line values to fields of engine.Settings."""
    from d2s_cli.images.masks import MaskSettings

    if if_exists is None:
        folder = any(os.path.isdir(path) for path in inputs)
        if_exists = "overwrite" if force else "resume" if folder else "error"
    mask = MaskSettings(polarity, threshold, grow, mask_from, fit_mask, tuple(mask_name or ()))
    return {**settings, "mask_settings": mask, "if_exists": if_exists}
