"""`d2s evaluate`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2s_cli.cli import judging_options as judging
from d2s_cli.cli import options as opt
from d2s_cli.cli import suggestions
from d2s_cli.cli.console import RunDisplay, say
from d2s_cli.cli.suggestions import one_of
from d2s_cli.errors import CHECK_FAILED, InputError, UsageError

if TYPE_CHECKING:
    from d2s_cli.metrics.scores import Scores

SETS, OUT = "Pictures", "Output"
#: characters of a line that goes to a file
WIDE = 200
_CHECK = re.compile(r"\s*([a-z0-9-]+)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*(%?)\s*")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def evaluate(
    results: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of results, list file (.txt), picture, or .npz statistics. Without it, the"
            " last run in this folder, by its manifest.",
            metavar="RESULTS",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            "-R",
            rich_help_panel=SETS,
            metavar="PATH",
            show_default=False,
            help="The true pictures: folder, list file or .npz statistics; inputs takes those of"
            " the run.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        judging.metric_option("psnr, ssim, l1, and seam where there are masks"),
    ] = None,
    preset: judging.Preset = "mat",
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            "-m",
            rich_help_panel=SETS,
            metavar="PATH",
            show_default=False,
            help="Mask, or folder of masks: adds values inside holes, tenths of hole size, and a"
            " check of the known pixels.",
        ),
    ] = None,
    polarity: opt.Polarity = "white",
    threshold: opt.Threshold = 0.5,
    recursive: opt.Recursive = False,
    pair: Annotated[
        str,
        typer.Option(
            "--pair",
            rich_help_panel=SETS,
            autocompletion=one_of(suggestions.PAIRINGS),
            help="Match results, reference and masks by name or by sorted order.",
        ),
    ] = "name",
    matched_only: Annotated[
        bool,
        typer.Option(
            "--matched-only",
            rich_help_panel=SETS,
            help="Leave out pictures that only one side has, instead of refusing.",
        ),
    ] = False,
    features: judging.Features = None,
    metric_weights: judging.MetricWeights = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(
            "--bootstrap",
            rich_help_panel=judging.NUMBERS,
            metavar="N",
            min=0,
            show_default="1000 for means over pictures and the classifier's shares, none for fid,"
            " kid and is",
            help="Resamples for 95 % intervals of every score; 0 for none.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", rich_help_panel=judging.NUMBERS, metavar="N", help="Of resamples."),
    ] = 0,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            rich_help_panel=OUT,
            metavar="CHECK",
            show_default=False,
            help='Exit 7 when true: "fid>3.2", "pids<20%". May be repeated.',
        ),
    ] = None,
    save_stats: Annotated[
        Path | None,
        typer.Option(
            "--save-stats",
            rich_help_panel=OUT,
            metavar="FILE.npz",
            show_default=False,
            help="Write the statistics of the reference (of RESULTS, if there is none), for use as"
            " --reference; pytorch-fid reads them too.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", rich_help_panel=OUT, help="Replace existing files.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            rich_help_panel=judging.NETWORKS,
            help="Keep features of references between runs, by the content of their files.",
        ),
    ] = True,
    device: opt.Device = "auto",
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            "-b",
            rich_help_panel=judging.NETWORKS,
            metavar="N",
            min=1,
            help="Pictures that go through a network together.",
        ),
    ] = 16,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            rich_help_panel=judging.NETWORKS,
            metavar="N",
            min=0,
            help="Threads that read pictures; 0 reads without threads.",
        ),
    ] = 2,
    as_json: opt.Json = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print a line for each score, separated by commas.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    progress: opt.Progress = "auto",
    quiet: opt.Quiet = False,
) -> None:
    """Score results by the numbers that papers print, by the recipes of their own codes, and by how
    visible the edges of the holes are (seam). Every number's meaning and traps: docs/evaluate.md.

    \b
    Examples:
      # the last run in this folder
      d2s evaluate --metric fid
      d2s evaluate results/ --reference truth/ --metric fid --metric pids --metric uids
      # pixels and seams need no weights; masks add values inside holes
      d2s evaluate results/ -R truth/ --masks masks/
      # exit 7 if worse than it was
      d2s evaluate results/ -R truth.npz -M fid --fail-if "fid>3.2" --json
      # distances in the features of your own network
      d2s evaluate results/ -R truth/ --features onnx:net.onnx
    """
    from d2s_cli import evaluation
    from d2s_cli.evaluation_options import metric_names
    from d2s_cli.images.masks import MaskSettings
    from d2s_cli.images.pairing import refuse_existing
    from d2s_cli.ranks import Ranks

    if as_json + csv + markdown > 1:
        raise UsageError("--json, --csv and --markdown exclude each other", "give one of them")
    names = metric_names(metric, features is not None, masks is not None)
    checks = [_parse_check(text, names) for text in fail_if or []]
    if save_stats is not None:
        refuse_existing([save_stats], force)
    with RunDisplay(progress, quiet, "judging") as display:
        scores = evaluation.evaluate(
            results,
            reference,
            metric or None,
            preset,
            display,
            masks=masks,
            mask_settings=MaskSettings(polarity=polarity, threshold=threshold, source="name"),
            pair=pair,
            matched_only=matched_only,
            recursive=recursive,
            features=features,
            metric_weights=_weights_files(metric_weights or [], names),
            save_stats=save_stats,
            cache=None if cache else False,
            bootstrap=bootstrap,
            seed=seed,
            device=device,
            batch=batch_size,
            workers=workers,
        )
    if Ranks.join().first:
        _print(scores, as_json, csv, markdown)
        if save_stats is not None and not quiet:
            say(f"wrote {save_stats}")
    Ranks.leave()
    failed = [text for name, sign, limit, text in checks if _fails(scores, name, sign, limit)]
    for text in failed:
        say(f"check failed: {text}")
    if failed:
        raise typer.Exit(CHECK_FAILED)


def _print(scores: Scores, as_json: bool, csv: bool, markdown: bool) -> None:
    if as_json:
        print(scores.to_json())
    elif csv:
        print(scores.to_csv(), end="")
    elif markdown:
        print(scores.to_markdown(), end="")
    elif len(scores):
        _print_table(scores)


def _print_table(scores: Scores) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from d2s_cli.metrics.scores import shown

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)  # a file has room for every column
    table = Table("metric", "value", "95 %", "pictures", box=box.SIMPLE_HEAD)
    for row in scores.table():
        table.add_row(*row)
    console.print(table)
    details = [
        f"{name}: {', '.join(f'{key} {_plain(value)}' for key, value in score.detail.items())}"
        for name, score in scores.details.items()
        if score.detail
    ]
    for line in [*details, f"preset {scores.preset}"]:
        console.print(f"  {line}", highlight=False)
    if scores.bins:
        means = list(scores.bins[0].means)
        by_hole = Table("hole", "pictures", *means, box=box.SIMPLE_HEAD)
        for one in scores.bins:
            values = [shown(name, one.means[name], False) for name in means]
            by_hole.add_row(f"{one.low:.0%} to {one.high:.0%}", str(one.count), *values)
        console.print(by_hole)


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parse_check(text: str, names: list[str]) -> tuple[str, str, float, str]:
    """Name, sign and limit of --fail-if.

    Raises:
        UsageError: not of that form, or of a score that is not computed.
    """
    from d2s_cli.metrics.scores import ALIASES, HOLE_SUFFIX

    match = _CHECK.fullmatch(text.lower())
    try:
        limit = float(match[3]) if match else 0.0
    except ValueError:
        match = None
    if match is None:
        raise UsageError(f"cannot read --fail-if {text!r}", 'for example: --fail-if "fid>3.2"')
    name = ALIASES.get(match[1], match[1])
    if name.removesuffix(HOLE_SUFFIX) not in names:
        raise UsageError(
            f"--fail-if {text!r} is about a score that is not computed",
            f"try: --metric {name.removesuffix(HOLE_SUFFIX)}",
        )
    return name, match[2], limit / 100 if match[4] else limit, text


def _fails(scores: Scores, name: str, sign: str, limit: float) -> bool:
    if name not in scores:
        raise UsageError(f"--fail-if: there is no score {name}", f"there are: {', '.join(scores)}")
    value = scores[name]
    return value != value or _SIGNS[sign](value, limit)  # a score that is no number fails too


def _weights_files(given: list[str], names: list[str]) -> dict[str, list[Path]]:
    """Files of --metric-weights by name.

    Raises:
        UsageError: an unknown name, or a FILE alone where several networks are asked for.
        InputError: a FILE that is not there.
    """
    from d2s_cli.metrics.scores import METRICS
    from d2s_cli.metrics.weights import FILES

    files: dict[str, list[Path]] = {}
    asked = list(dict.fromkeys(METRICS[name].weights[0] for name in names if METRICS[name].weights))
    for text in given:
        name, sign, file = text.partition("=")
        if not sign or (name not in FILES and Path(text).exists()):
            if len(asked) != 1:
                raise UsageError(
                    f"which network is --metric-weights {text} of?",
                    f"try: --metric-weights NAME={text}, NAME one of: {', '.join(asked or FILES)}",
                )
            name, file = asked[0], text
        if name not in FILES:
            raise UsageError(f"no weights are named {name!r}", f"one of: {', '.join(FILES)}")
        if not Path(file).is_file():
            raise InputError(f"no weights file at {file}")
        files.setdefault(name, []).append(Path(file))
    return files
