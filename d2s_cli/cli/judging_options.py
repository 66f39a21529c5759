"""Options of the commands that compute scores, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

from d2s_cli.cli import suggestions
from d2s_cli.cli.suggestions import one_of

NUMBERS, NETWORKS = "Numbers", "Networks"


def metric_option(default: str) -> typer.models.OptionInfo:
    """--metric; `default` says what is computed without it."""
    option: typer.models.OptionInfo = typer.Option(
        "--metric",
        "-M",
        rich_help_panel=NUMBERS,
        metavar="NAME",
        show_default=default,
        autocompletion=one_of(suggestions.METRICS),
        help="fid, kid, is, pids, uids, psnr, ssim, ssim-flat, ssim-padded, l1, lpips-alex,"
        " lpips-vgg, seam, or frechet (with --features). May be repeated.",
    )
    return option


Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        rich_help_panel=NUMBERS,
        autocompletion=one_of(suggestions.EVALUATION_PRESETS),
        help="Whose code the numbers of the Inception network follow: mat, tf, pytorch-fid or"
        " clean.",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        rich_help_panel=NETWORKS,
        metavar="KIND:FILE",
        show_default=False,
        help="Another network for frechet, kid, pids and uids: onnx:FILE, or torchscript:FILE."
        " TorchScript files contain code, which runs: load only what you trust.",
    ),
]
MetricWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--metric-weights",
        rich_help_panel=NETWORKS,
        metavar="[NAME=]FILE",
        show_default=False,
        help="Weights of a metric that are not in the weights folder: inception-fid=FILE,"
        " lpips-alex=FILE, lpips-vgg=FILE (twice: heads and trunk). May be repeated. A FILE"
        " alone is that of the one network that is asked for.",
    ),
]
