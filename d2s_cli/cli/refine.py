"""`d2s refine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli.restore import Saying, restore

GuideOutputs = Annotated[
    Path,
    typer.Option(
        "--guide-outputs",
        "-G",
        metavar="PATH",
        show_default=False,
        help="First result, or folder of first results.",
    ),
]


def refine(
    inputs: opt.Inputs,
    guide_outputs: GuideOutputs,
    mask: opt.Mask = None,
    recursive: opt.Recursive = False,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    mask_from: opt.MaskFrom = "auto",
    polarity: opt.Polarity = "white",
    threshold: opt.Threshold = 0.5,
    grow: opt.Grow = 0,
    fit_mask: opt.FitMask = "error",
    mask_name: opt.MaskName = None,
    weights: opt.Weights = "d2s-base",
    preset: opt.Preset = "balanced",
    tk: opt.Tk = None,
    steps: opt.Steps = None,
    sampler: opt.Sampler = None,
    table_steps: opt.TableSteps = 1000,
    start: opt.Start = "middle",
    inject: opt.Inject = None,
    correct: opt.Correct = None,
    samples: opt.Samples = 1,
    seed: opt.Seed = 0,
    context: opt.Context = None,
    output: opt.Output = None,
    if_exists: opt.IfExists = None,
    force: opt.Force = False,
    format: opt.Format = "keep",
    quality: opt.Quality = None,
    metadata: opt.Metadata = "keep",
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    batch_size: opt.BatchSize = None,
    workers: opt.Workers = None,
    dry_run: opt.DryRun = False,
    progress: opt.Progress = "auto",
    as_json: opt.Json = False,
    print_paths: opt.PrintPaths = False,
    null: opt.Null = False,
    quiet: opt.Quiet = False,
) -> None:
    """Refine results that another tool already made. INPUTS are the damaged originals; for each,
    the first result is looked up by the names that tools write: MASKNAME, NAME, NAME_out,
    NAME.out, NAME_inpainted, Out_NAME, with any image extension.

    \b
    Examples:
      d2s refine photos/ --guide-outputs lama_out/ --tk 200 -o refined/
      d2s refine photo.png -m m.png --guide-outputs photo_lama.png --samples 3
    """
    settings = opt.restore_settings(
        inputs,
        mask_from,
        polarity,
        threshold,
        grow,
        fit_mask,
        mask_name,
        if_exists,
        force,
        weights=weights,
        preset=preset,
        tk=tk,
        steps=steps,
        sampler=sampler,
        table_steps=table_steps,
        start=start,
        inject=inject,
        correct=correct,
        samples=samples,
        seed=seed,
        context=context,
        format=format,
        quality=quality,
        metadata=metadata,
        device=device,
        precision=precision,
        batch=batch_size,
        workers=workers,
    )
    saying = Saying(progress, quiet, as_json, print_paths or null, null)
    chosen = opt.selection(include, exclude, limit)
    raise typer.Exit(
        restore(inputs, mask, output, guide_outputs, recursive, chosen, dry_run, saying, settings)
    )
