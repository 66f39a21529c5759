"""Sets of pictures to judge: folders and list files, and which picture of two sets is the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.compare import AFTER_PATTERNS
from d2s_cli.images.finding import IMAGE_SUFFIXES, find_images

#: text files with the path of one picture on every line
LIST_SUFFIXES = frozenset({".txt", ".lst", ".list", ".flist"})
PAIRINGS = ("name", "order")
SHOWN = 5


@dataclass(frozen=True)
class PictureSet:
    """Pictures in a fixed order.

    Attributes:
        source: the folder or list that they came from.
        paths: the files.
        names: path below the folder without suffix, by which pictures are matched.
    """

    source: Path
    paths: tuple[Path, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


def find_set(source: Path, recursive: bool = False, masks: bool = False) -> PictureSet:
    """The pictures of a folder or list file, or one picture.

    Folders are read in the order of their names, lists in their own. Lines of a list are paths,
    from the list's folder or the working one; empty lines and those that begin with # are skipped.

    Args:
        source: what the user named.
        recursive: go into subfolders.
        masks: these are masks; else pictures that are named as another one's mask are left out.

    Raises:
        InputError: nothing there, nothing in it, or a line that names no file.
    """
    if source.is_file() and source.suffix.lower() in LIST_SUFFIXES:
        paths = _read_list(source)
        return PictureSet(source, tuple(paths), tuple(str(p.with_suffix("").name) for p in paths))
    found = find_images([source], recursive, masks=masks)
    names = [
        path.relative_to(below).with_suffix("").as_posix() if below else path.stem
        for path, below in found
    ]
    return PictureSet(source, tuple(path for path, _ in found), tuple(names))


def _read_list(source: Path) -> list[Path]:
    try:
        lines = source.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {source}: {error}") from error
    paths = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = [path for path in (source.parent / text, Path(text)) if path.is_file()]
        if not found:
            raise InputError(f"{source}, line {number}: no picture at {text}")
        paths.append(found[0])
    if not paths:
        raise InputError(f"{source} lists no pictures", "one path on every line")
    return paths


def pair_sets(
    results: PictureSet, reference: PictureSet, by: str = "name", matched_only: bool = False
) -> list[tuple[int, int]]:
    """Numbers in both sets of the pictures that belong together, in the order of the results.

    Args:
        results: their names may carry what tools append: NAME, NAME_d2s, NAME_out, ...
        reference: the truths.
        by: "name", or "order": the i-th of one is the i-th of the other.
        matched_only: leave out pictures that only one side has, instead of refusing.

    Raises:
        InputError: a picture without partner, or two of one name.
        UsageError: `by` means nothing.
    """
    if by not in PAIRINGS:
        raise UsageError(f"unknown --pair {by!r}", f"one of: {', '.join(PAIRINGS)}")
    if by == "order":
        if len(results) != len(reference) and not matched_only:
            raise InputError(
                f"{len(results)} results in {results.source}, {len(reference)} pictures in"
                f" {reference.source}: they cannot be matched by order",
                "try: --pair name",
            )
        return [(i, i) for i in range(min(len(results), len(reference)))]
    truths = {name: i for i, name in enumerate(_unique(reference))}
    pairs, lonely = [], []
    for i, name in enumerate(_unique(results)):
        partner = next((truths[t] for t in _truth_names(name) if t in truths), None)
        if partner is None:
            lonely.append(name)
        else:
            pairs.append((i, partner))
    taken = {j for _, j in pairs}
    if len(taken) < len(pairs):
        raise InputError(
            f"two results in {results.source} belong to one picture of {reference.source}",
            "judge results of one run at a time",
        )
    unused = [name for name, i in truths.items() if i not in taken]
    if not pairs or ((lonely or unused) and not matched_only):
        raise _unmatched(results, reference, lonely, unused)
    return pairs


def _unique(pictures: PictureSet) -> Sequence[str]:
    seen: dict[str, Path] = {}
    for name, path in zip(pictures.names, pictures.paths, strict=True):
        if name in seen:
            raise InputError(
                f"two pictures have one name: {seen[name]} and {path}",
                "keep one of them, or match by --pair order",
            )
        seen[name] = path
    return pictures.names


def _truth_names(name: str) -> Iterable[str]:
    """Names that the truth of a result may have, the likeliest first."""
    folder, _, stem = name.rpartition("/")
    for pattern in AFTER_PATTERNS:
        before, after = pattern.split("{}")
        if stem.startswith(before) and stem.endswith(after):
            bare = stem[len(before) : len(stem) - len(after)]
            yield f"{folder}/{bare}" if folder else bare


def _unmatched(
    results: PictureSet, reference: PictureSet, lonely: list[str], unused: list[str]
) -> InputError:
    lines = []
    for names, where, other in (
        (lonely, results.source, reference.source),
        (unused, reference.source, results.source),
    ):
        if names:
            shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            lines.append(f"{len(names)} in {where} without partner in {other}: {shown}")
    hints = "try: --matched-only, to leave these out; --pair order, to match by sorted order"
    return InputError(
        f"results and reference do not match: {'; '.join(lines)}",
        hints + f"\nlooked for names with: {' '.join(sorted(IMAGE_SUFFIXES))}",
    )
