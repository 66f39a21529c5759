"""`d2s inpaint`."""

from __future__ import annotations

import typer

from d2s_cli.cli import options as opt
from d2s_cli.cli.restore import Saying, restore


def inpaint(
    inputs: opt.Inputs,
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
    guide: opt.Guide = "auto",
    guide_weights: opt.GuideWeights = None,
    guide_option: opt.GuideOption = None,
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
    """Fill the holes in images. A guide makes a first result, the refinement model improves it,
    and the rest of the image is left as it was.

    \b
    Examples:
      d2s inpaint photo.png --mask m.png
      # four candidates to choose from
      d2s inpaint photo.png -m m.png -o fixed.png --samples 4
      # a folder of scans, masks in another folder, holes 3 px wider
      d2s inpaint scans/ -r --mask scratches/ --grow 3 -o out/
      # the first five of them, to see what comes of it; the same without --limit does the rest
      d2s inpaint scans/ -m scratches/ -o out/ --include '*.tif' --limit 5
      # the hole is where a cut-out is transparent, or where it is pure magenta
      d2s inpaint cutout.png
      d2s inpaint marked.png --mask-from color=#FF00FF --grow 2
      # a guide from its published weights; a program of your own as the guide
      d2s inpaint photo.png -m m.png --guide lama --guide-weights best.ckpt
      d2s inpaint photo.png -m m.png --guide cmd:"mytool {image} {mask} {output}"
      # the paper's settings, step by step; from another start
      d2s inpaint photo.png -m m.png --guide telea --preset paper
      d2s inpaint photo.png -m m.png --guide telea --preset paper --tk 100
      # one mask for all
      d2s inpaint frames/ --mask logo.png -o clean/
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
        guide=guide,
        guide_weights=guide_weights or None,
        guide_options=opt.guide_options(guide_option),
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
        restore(inputs, mask, output, None, recursive, chosen, dry_run, saying, settings)
    )
