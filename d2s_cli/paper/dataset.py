"""The paper's data: CelebA's own split of CelebA-HQ, pictures of 256 x 256, masks by order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.drawings import write_drawing
from d2s_cli.images.edit_masks import write_mask
from d2s_cli.images.files import check_file, typed, writing
from d2s_cli.images.finding import find_images
from d2s_cli.images.masks import MaskSettings, read_mask
from d2s_cli.images.pairing import refuse_existing
from d2s_cli.images.picture_sets import find_set
from d2s_cli.images.reading import read_photo

#: last file number of CelebA's training and validation parts; the rest is its test part
LAST_TRAIN, LAST_VAL = 162_770, 182_637
PARTS = ("train", "val", "test")
#: pictures of CelebA-HQ by part
PUBLISHED = {"train": 24_183, "val": 2_993, "test": 2_824}
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
Tell = Callable[[int, int], None]


# --- split ----------------------------------------------------------------------------------------


def read_mapping(path: Path) -> dict[int, int]:
    """CelebA-HQ's numbers (from 0) to the numbers in CelebA's file names (from 1).

    Lines are `number index file`: the number in CelebA-HQ, the index in CelebA from 0, and CelebA's
    file name, by which alone is gone; other lines (a heading) are left out.

    Raises:
        InputError: unreadable, no such lines, or a number twice.
    """
    check_file(path, "mapping", "it comes with CelebAMask-HQ: CelebA-HQ-to-CelebA-mapping.txt")
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the mapping {path}: {error}") from error
    found: dict[int, int] = {}
    for line in lines:
        if match := re.fullmatch(r"\s*(\d+)\s+(\d+)\s+0*(\d+)\.\w+\s*", line):
            number = int(match[1])
            if number in found:
                raise InputError(f"{path} has number {number} twice")
            found[number] = int(match[3])
    if not found:
        raise InputError(
            f"{path} has no lines like '0 119613 119614.jpg'",
            "give CelebA-HQ-to-CelebA-mapping.txt",
        )
    return found


def part_of(celeba: int) -> str:
    """The part of CelebA that a file number belongs to."""
    if celeba <= LAST_TRAIN:
        return "train"
    return "val" if celeba <= LAST_VAL else "test"


def split(
    mapping: Path, output: Path, pictures: Path | None = None, first: int = 0, force: bool = False
) -> dict[str, int]:
    """Write train.txt, val.txt and test.txt; returns how many pictures each lists.

    Args:
        mapping: see `read_mapping`.
        output: folder of the lists.
        pictures: folder with pictures named by their number, zeros before it or not; the lists then
            hold their full paths. None lists NUMBER.jpg.
        first: the number that the files begin with: 0, or 1 where 00001.jpg is picture 0.
        force: replace lists.

    Raises:
        InputError: pictures are missing, or lists exist already.
    """
    parts = {number: part_of(celeba) for number, celeba in read_mapping(mapping).items()}
    lists = {part: output / f"{part}.txt" for part in PARTS}
    refuse_existing(lists.values(), force)
    if pictures is None:
        names = {number: f"{number + first}.jpg" for number in parts}
    else:
        files = _by_number(pictures, first)
        if missing := sorted(parts.keys() - files.keys()):
            raise InputError(
                f"{len(missing)} of {len(parts)} pictures are not in {pictures}, the first is"
                f" number {missing[0] + first}",
                "try: --first 1, if the files are numbered from 1; d2s paper split without"
                " --pictures lists names alone",
            )
        names = {number: str(files[number].resolve()) for number in parts}
    counts = {}
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        for part, path in lists.items():
            listed = [names[number] for number in sorted(parts) if parts[number] == part]
            path.write_text("".join(f"{name}\n" for name in listed), "utf-8")
            counts[part] = len(listed)
    return counts


def _by_number(pictures: Path, first: int) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path, _ in find_images([pictures], False):
        if path.stem.isdecimal():
            number = int(path.stem) - first
            if number in found:
                raise InputError(f"two pictures of one number: {found[number]} and {path}")
            found[number] = path
    return found


# --- size -----------------------------------------------------------------------------------------


def resize(
    source: Path, output: Path, side: int, kernel: str = "lanczos", tell: Tell = lambda i, n: None
) -> tuple[int, int]:
    """Pictures of a folder or list as side x side PNG files; those that are there already stay.

    Returns:
        How many were written, and how many were there.

    Raises:
        InputError: no pictures, two of one name, or one that is not square.
        UsageError: unknown filter.
    """
    if kernel not in FILTERS:
        raise UsageError(f"unknown --filter {kernel!r}", f"one of: {', '.join(FILTERS)}")
    found = find_set(source)
    targets = [output / f"{path.stem}.png" for path in found.paths]
    if len(set(targets)) < len(targets):
        raise InputError(f"two pictures of {source} have one name", "one folder at a time")
    if {p.resolve() for p in found.paths} & {p.resolve() for p in targets}:
        raise InputError(f"the results would replace pictures of {source}", "try: another -o")
    written = 0
    for i, (path, target) in enumerate(zip(found.paths, targets, strict=True), 1):
        if not target.is_file():
            _write_resized(path, target, side, kernel)
            written += 1
        tell(i, len(targets))
    return written, len(targets) - written


def _write_resized(path: Path, target: Path, side: int, kernel: str) -> None:
    photo = read_photo(path)
    width, height = photo.size
    if width != height or photo.rgb.dtype != np.uint8:
        raise InputError(
            f"{path} is {width}x{height} {photo.rgb.dtype}; wanted: square, 8 bits",
            "cut it to a square before",
        )
    picture = Image.fromarray(photo.rgb)
    if width != side:
        picture = picture.resize((side, side), FILTERS[kernel])
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_drawing(np.asarray(picture), target)


# --- masks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedMasks:
    """What `pair_masks` wrote: how many, and the mean share of hole."""

    count: int
    mean_hole: float


def pair_masks(
    pictures: Path,
    masks: Path,
    output: Path,
    settings: MaskSettings,
    tell: Tell = lambda i, n: None,
    force: bool = False,
) -> PairedMasks:
    """The i-th mask by name for the i-th picture by name, as MAT's code pairs them; written under
    the picture's name, white where the hole is.

    Names sort as text: 10.png comes before 9.png, on both sides.

    Raises:
        InputError: fewer masks than pictures, another size, or files that exist already.
    """
    wanted = sorted(find_set(pictures).paths, key=lambda path: path.name)
    given = sorted(find_set(masks, masks=True).paths, key=lambda path: path.name)
    if len(given) < len(wanted):
        raise InputError(
            f"{len(given)} masks in {masks} for {len(wanted)} pictures in {pictures}",
            f"draw them: d2s mask make {typed(pictures)} --from random --kind mat-small -o MASKS",
        )
    targets = [output / f"{path.stem}.png" for path in wanted]
    refuse_existing(targets, force, [*wanted, *given])
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    total = 0.0
    for i, (picture, mask, target) in enumerate(zip(wanted, given, targets, strict=False), 1):
        hole = read_mask(mask, read_photo(picture), settings).hole
        write_mask(hole, target)
        total += float(hole.mean())
        tell(i, len(targets))
    return PairedMasks(len(targets), total / len(targets))
