"""The plan of a run: each picture with its mask and its first result, and where the result goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.files import check_file, typed
from d2s_cli.images.finding import (
    MASK_HINT,
    about_others,
    find_guide,
    find_masks,
    find_others,
    find_sources,
    no_mask,
)
from d2s_cli.images.formats import suffix_for
from d2s_cli.images.selection import Selection


@dataclass(frozen=True)
class Job:
    """One picture to restore.

    Attributes:
        image: the damaged picture.
        mask: its mask file; the picture itself if its alpha or a key colour marks the hole.
        output: where the result goes.
        guide: first result of another tool, for `refine`.
    """

    image: Path
    mask: Path
    output: Path
    guide: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A whole run, before anything is computed.

    Attributes:
        jobs: what to do.
        failed: pictures that cannot be done, with the reason.
        folder: where the results of a folder run go, with its manifest; None for a single file.
        others: pictures in the folders that are left out for their format.
    """

    jobs: list[Job]
    failed: list[tuple[Path, InputError]]
    folder: Path | None
    others: list[Path] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """What to say before anything is done."""
        return [about_others(self.others)] if self.others else []


def make_plan(
    inputs: str | Path | Sequence[str | Path],
    mask: str | Path | None = None,
    output: str | Path | None = None,
    guides: str | Path | None = None,
    recursive: bool = False,
    choice: str = "keep",
    source: str = "auto",
    names: Sequence[str] = (),
    selection: Selection | None = None,
) -> Plan:
    """Pair everything before anything runs.

    Args:
        inputs: pictures and folders.
        mask, output, guides: see `find_masks`, `output_path`, `find_guide`.
        recursive: go into subfolders.
        choice: --format, a key of formats.CHOICES.
        source: --mask-from, see `find_masks`.
        names: --mask-name, see MaskSettings.
        selection: which of the pictures found are wanted; None for all.

    Raises:
        InputError: nothing to do at all; two results with one name; a result over an input.
        UsageError: --output names a file of another format than --format.
    """
    paths = [Path(p) for p in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    mask, output, guides = (None if p is None else Path(p) for p in (mask, output, guides))
    if mask is not None and not os.path.isdir(mask):
        check_file(mask, "mask", MASK_HINT)
    images = find_sources(paths, recursive, (mask, output, guides), names)
    images = (selection or Selection()).of(images)
    jobs, failed = _pair(images, len(paths) == 1, mask, output, guides, choice, source, names)
    if not jobs and mask is None and len(paths) == 2 and not any(map(os.path.isdir, paths)):
        first, second = map(typed, paths)
        hint = f"is the second the mask of the first? try: d2s inpaint {first} --mask {second}"
        raise InputError(f"no mask for {paths[0]}, and none for {paths[1]}", hint)
    _refuse_collisions(jobs)
    folder = _results_folder(paths, output)
    if folder is not None and os.path.isfile(folder):
        raise InputError(f"{folder} is a file, not a folder", "try: --output OTHER_FOLDER")
    others = find_others(paths, recursive, (mask, output, guides))
    return Plan(jobs, failed, folder, others)


def _results_folder(inputs: Sequence[Path], output: Path | None) -> Path | None:
    folders = [path for path in inputs if os.path.isdir(path)]
    if not folders and len(inputs) == 1:
        return None
    if output is not None:
        return output
    return default_folder(folders[0]) if folders else None


def _pair(
    images: Sequence[tuple[Path, Path | None]],
    alone: bool,
    mask: Path | None,
    output: Path | None,
    guides: Path | None,
    choice: str,
    source: str,
    names: Sequence[str],
) -> tuple[list[Job], list[tuple[Path, InputError]]]:
    jobs: list[Job] = []
    failed: list[tuple[Path, InputError]] = []
    one_file = alone and images[0][1] is None
    for image, below in images:
        masks = find_masks(image, mask, below, source, names)
        if not masks:
            failed.append((image, no_mask(image, mask, names)))
            continue
        for one in masks:
            stem = one.stem if len(masks) > 1 else None
            target = output_path(image, below, output, one_file and len(masks) == 1, stem, choice)
            try:
                guide = find_guide(guides, image, one, below) if guides else None
            except InputError as error:
                failed.append((image, error))
                continue
            jobs.append(Job(image, one, target, guide))
    return jobs, failed


def default_folder(inputs: Path) -> Path:
    """FOLDER_d2s beside a folder of pictures."""
    return inputs.parent / f"{inputs.resolve().name}_d2s"


def output_path(
    image: Path,
    below: Path | None,
    output: Path | None,
    single: bool,
    stem: str | None = None,
    choice: str = "keep",
) -> Path:
    """Where a result goes: beside a named file as NAME_d2s, into FOLDER_d2s/ for a folder.

    Args:
        image: the picture.
        below: folder that it was found in, or None.
        output: --output, or None.
        single: the only result of the run, so that `output` may be a file.
        stem: name of the result if not the picture's (several masks for one picture).
        choice: --format, a key of formats.CHOICES.

    Raises:
        UsageError: `output` is a file of another format.
    """
    suffix = suffix_for(image.suffix, choice)
    name = (stem or image.stem) + suffix
    if single and output is not None and output.suffix and not os.path.isdir(output):
        if (other := suffix_for(output.suffix, choice)) != output.suffix:
            raise UsageError(
                f"--format {choice} and --output {output} name different formats",
                f"try: --output {output.with_suffix(other)}, or leave out --format",
            )
        return output
    relative = image.relative_to(below).parent if below is not None else Path()
    if output is not None:
        return output / relative / name
    if below is not None:
        return default_folder(below) / relative / name
    return image.with_name(f"{stem or image.stem}_d2s{suffix}")


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    # realpath, since Path.resolve does not take links in a circle
    inputs = {os.path.realpath(p) for job in jobs for p in (job.image, job.mask, job.guide) if p}
    seen: dict[str, Path] = {}
    for job in jobs:
        target = os.path.realpath(job.output)
        if target in inputs:
            raise InputError(
                f"the result for {job.image} would overwrite an input: {job.output}",
                "try: --output OTHER_FOLDER",
            )
        if target in seen:
            raise InputError(
                f"two results have one name: {seen[target]} and {job.image} -> {job.output}",
                "try: one folder at a time, or different file names",
            )
        seen[target] = job.image


def refuse_existing(paths: Iterable[Path], force: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise InputError if a file would be replaced unasked, or an input at all.

    To be called before anything is computed.
    """
    existing = [path for path in paths if os.path.lexists(path)]
    read = {os.path.realpath(path) for path in inputs}
    if lost := [path for path in existing if os.path.realpath(path) in read]:
        raise InputError(
            f"the result would overwrite an input: {lost[0]}", "try: --output OTHER_NAME"
        )
    if existing and not force:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise InputError(f"{existing[0]}{more} exists already", "try: --force, or another --output")
