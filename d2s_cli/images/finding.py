"""Files that belong together by their names: pictures, their masks, and results for them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.files import check_file, leads_nowhere, typed
from d2s_cli.images.formats import FORMATS, OTHERS
from d2s_cli.images.masks import has_transparent_pixels

IMAGE_SUFFIXES = frozenset(FORMATS)
#: how a mask beside its picture is named; {} is the picture's stem
MASK_PATTERNS = ("{}_mask*", "{}-mask", "{}.mask", "masks/{}", "masks/{}_mask*")
#: how a mask in a folder of masks is named
MASK_FOLDER_PATTERNS = ("{}", "{}_mask*", "{}-mask", "{}.mask")
#: how tools name their results, tried in this order; {} is the picture's stem
GUIDE_PATTERNS = ("{}", "{}_out", "{}.out", "{}_inpainted", "Out_{}")
#: where in a name the picture's stem may end, if it is a mask's name
_MASK_ENDING = re.compile(r"_mask|-mask\Z|\.mask\Z")
#: what a result beside its picture has at the end of its name, one of several samples too
_RESULT_ENDING = re.compile(r"_d2s(\.s\d+)?\Z")
#: what to type where a mask is missing
MASK_HINT = "try: --mask FILE, white where pixels are missing"


def find_images(
    inputs: Sequence[Path],
    recursive: bool = False,
    others: Iterable[Path | None] = (),
    names: Sequence[str] = (),
    masks: bool = False,
) -> list[tuple[Path, Path | None]]:
    """Pictures named or found in folders, with the folder they were found in (None if named).

    A file that is named as another picture's mask is a mask and no input; so is all in `masks/`.
    Hidden files and folders are left out. A link to nothing counts: that it cannot be read is
    said later, of this picture.

    Args:
        inputs: pictures and folders.
        recursive: go into subfolders.
        others: masks, results of other tools and the output; files and folders of these that lie
            in an input folder are no pictures to restore.
        names: how masks are named, see MaskSettings.
        masks: masks are wanted too.

    Raises:
        InputError: an input is not there, or nothing was found.
    """
    found: list[tuple[Path, Path | None]] = []
    for path in inputs:
        if os.path.isdir(path):
            files = _files_in(path, recursive, _within(path, others))
            known = {(f.parent, f.stem) for f in files}
            found += [(f, path) for f in files if masks or not _is_mask(f, known, names)]
        else:
            check_file(path, "picture or folder", "look at the spelling")
            found.append((path, None))
    if not found:
        unread = find_others(inputs, recursive, others)
        raise InputError(
            f"no pictures in {', '.join(map(str, inputs))}",
            f"looked for: {' '.join(sorted(IMAGE_SUFFIXES))}"
            + (f"\n{about_others(unread)}" if unread else "")
            + ("" if recursive else "\ntry: --recursive, to look into subfolders"),
        )
    return found


def find_sources(
    inputs: Sequence[Path],
    recursive: bool = False,
    others: Iterable[Path | None] = (),
    names: Sequence[str] = (),
) -> list[tuple[Path, Path | None]]:
    """As `find_images`, without NAME_d2s that an earlier run put beside NAME into a folder."""
    found = find_images(inputs, recursive, others, names)
    known = {(path.parent, path.stem) for path, _ in found}

    def is_result(path: Path) -> bool:
        ending = _RESULT_ENDING.search(path.stem)
        return ending is not None and (path.parent, path.stem[: ending.start()]) in known

    return [(path, below) for path, below in found if below is None or not is_result(path)]


def find_others(
    inputs: Sequence[Path], recursive: bool = False, others: Iterable[Path | None] = ()
) -> list[Path]:
    """Pictures in folders that `find_images` leaves out for their format; arguments as there."""
    found: list[Path] = []
    for path in filter(os.path.isdir, inputs):
        files = _visible_in(path, recursive, _within(path, others))
        found += [f for f in files if f.suffix.lower() in OTHERS and os.path.isfile(f)]
    return found


def about_others(paths: Sequence[Path]) -> str:
    """What to say of the pictures that `find_others` found."""
    kinds = Counter(path.suffix.lower() for path in paths)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"left out for their format: {listed} (such as {paths[0]}); make PNG or TIFF of them"


def _files_in(folder: Path, recursive: bool, left_out: set[tuple[str, ...]]) -> list[Path]:
    """Picture files of a folder in order; InputError if it cannot be read."""
    return [file for file in _visible_in(folder, recursive, left_out) if _is_picture_file(file)]


def _visible_in(folder: Path, recursive: bool, left_out: set[tuple[str, ...]]) -> list[Path]:
    """What is in a folder in order, hidden things left out; InputError if it cannot be read."""
    try:
        walk = sorted(folder.rglob("*") if recursive else folder.iterdir())
    except OSError as error:
        raise InputError(
            f"cannot read the folder {folder}: {error.strerror}", "look at its permissions"
        ) from error
    files = []
    for file in walk:
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or any(parts[: len(others)] == others for others in left_out):
            continue
        files.append(file)
    return files


def _within(folder: Path, paths: Iterable[Path | None]) -> set[tuple[str, ...]]:
    """Those of `paths` that lie in `folder`, as names from there."""
    base = Path(os.path.realpath(folder))
    real = (Path(os.path.realpath(path)) for path in paths if path is not None)
    return {p.relative_to(base).parts for p in real if p != base and p.is_relative_to(base)}


def _is_picture_file(path: Path) -> bool:
    """By its name; folders, pipes and devices are none."""
    named = path.suffix.lower() in IMAGE_SUFFIXES
    return named and (os.path.isfile(path) or leads_nowhere(path))


def _is_mask(path: Path, known: set[tuple[Path, str]], names: Sequence[str]) -> bool:
    if names:
        return any(_is_named(path, known, name) for name in names)
    stems = (path.stem[: match.start()] for match in _MASK_ENDING.finditer(path.stem))
    return path.parent.name == "masks" or any((path.parent, stem) in known for stem in stems)


def _is_named(path: Path, known: set[tuple[Path, str]], name: str) -> bool:
    """True if a file has the name of a mask of a known picture."""
    folder, _, last = name.rpartition("/")
    if folder and not path.parent.match(folder):
        return False
    for stem in ("(?P<stem>.+)", "(?P<stem>.+?)"):  # the star may hold more or less
        match = re.fullmatch(_regex(last, "{stem}", stem), _compared(path, last), re.DOTALL)
        itself = not folder and match is not None and match["stem"] == path.stem
        if match and not itself:
            found = (path.parents[len(Path(folder).parts)], match["stem"])
            if found in known:
                return True
    return False


def _compared(path: Path, pattern: str) -> str:
    """What of a file's name a pattern speaks of: all of it if the pattern has an ending."""
    return path.name if Path(pattern).suffix.lower() in IMAGE_SUFFIXES else path.stem


def _regex(pattern: str, place: str, stem: str) -> str:
    """A regular expression for a pattern with * and a place for the stem's own expression."""
    before, _, after = (re.escape(part) for part in pattern.partition(place))
    return before.replace(r"\*", ".*") + stem + after.replace(r"\*", ".*")


def _matches(folder: Path, patterns: Iterable[str], stem: str) -> list[Path]:
    """Picture files in `folder` that fit the patterns, by pattern, then by name."""
    found: list[Path] = []
    for pattern in patterns:
        # the stem is text, not a pattern: brackets and stars in names mean themselves
        last = Path(pattern).name
        regex = re.compile(_regex(last, "{}", re.escape(stem)), re.DOTALL)
        parent = folder / Path(pattern).parent
        if not os.path.isdir(parent):
            continue
        found += [
            f
            for f in sorted(parent.iterdir())
            if regex.fullmatch(_compared(f, last)) and f not in found and _is_picture_file(f)
        ]
    return found


def find_masks(
    image: Path,
    mask: Path | None,
    below: Path | None = None,
    source: str = "auto",
    names: Sequence[str] = (),
) -> list[Path]:
    """Masks of a picture: the given file, or by name in the given folder, or beside the picture.

    Args:
        image: the picture.
        mask: --mask: one file for every picture, a folder, or None.
        below: folder that the picture was found in; a folder of masks may mirror its tree.
        source: "name" looks no further; "alpha" or a key colour is the picture itself; "auto" takes
            the picture itself if no mask lies beside it and it has transparent pixels.
        names: how masks are named, see MaskSettings.

    Raises:
        UsageError: a mask and another source are both given.
    """
    if source not in ("auto", "name"):
        if mask is not None:
            raise UsageError(
                f"--mask {mask} and --mask-from {source} contradict each other", "leave one out"
            )
        return [image]
    found = _masks_by_name(image, mask, below, names)
    if not found and mask is None and source == "auto" and has_transparent_pixels(image):
        return [image]
    return found


def _mask_patterns(mask: Path | None, names: Sequence[str]) -> Sequence[str]:
    """Where masks are looked for, beside a picture or in a folder of masks."""
    if names:
        return [name.replace("{stem}", "{}") for name in names]
    return MASK_PATTERNS if mask is None else MASK_FOLDER_PATTERNS


def _masks_by_name(
    image: Path, mask: Path | None, below: Path | None, names: Sequence[str]
) -> list[Path]:
    patterns = _mask_patterns(mask, names)
    if mask is None:
        return [m for m in _matches(image.parent, patterns, image.stem) if m != image]
    if not os.path.isdir(mask):
        return [mask]
    if below is not None and image.parent != below:
        mirrored = mask / image.parent.relative_to(below)
        if found := _matches(mirrored, patterns, image.stem):
            return found
    return _matches(mask, patterns, image.stem)


def find_guide(guides: Path, image: Path, mask: Path, below: Path | None = None) -> Path:
    """The result of another tool for this picture and mask.

    Raises:
        InputError: none, or more than one of the same name.
    """
    names = [mask.stem, *(pattern.format(image.stem) for pattern in GUIDE_PATTERNS)]
    return find_result(guides, image, names, below, "guide result")


def find_result(
    results: Path, image: Path, names: Iterable[str], below: Path | None, what: str
) -> Path:
    """The picture in a folder of results that belongs to `image`.

    Args:
        results: the folder, or the one file for every picture.
        image: the picture.
        names: stems to look for, the first that is there wins.
        below: folder that the picture was found in; `results` may mirror its tree.
        what: the results' name in messages.

    Raises:
        InputError: none, or more than one of the same name.
    """
    if not os.path.isdir(results):
        check_file(results, f"folder or file of {what}s", "look at the spelling")
        return results
    folders = [results]
    if below is not None and image.parent != below:
        folders.insert(0, results / image.parent.relative_to(below))
    for folder in folders:
        for name in dict.fromkeys(names):
            found = _matches(folder, ("{}",), name)
            if len(found) > 1:
                raise InputError(
                    f"more than one {what} for {image}: {', '.join(map(str, found))}",
                    "keep one of them",
                )
            if found:
                return found[0]
    raise InputError(
        f"no {what} for {image} in {results}",
        f"looked for: {', '.join(dict.fromkeys(names))}, any picture format",
    )


def no_mask(image: Path, mask: Path | None, names: Sequence[str] = ()) -> InputError:
    """What to say of a picture for which `find_masks` found nothing."""
    patterns = _mask_patterns(mask, names)
    where = "beside it" if mask is None else f"in {mask}"
    return InputError(
        f"no mask for {image}",
        f"looked {where} for: {', '.join(p.replace('{}', image.stem) for p in patterns)}\n"
        f"try: d2s inpaint {typed(image)} --mask MASK.png   (white where pixels are missing)",
    )
