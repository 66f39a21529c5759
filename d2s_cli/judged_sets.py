"""What is judged: folders, lists, statistics, or the last run by its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.finding import find_masks, find_result, no_mask
from d2s_cli.images.masks import MaskSettings, read_mask
from d2s_cli.images.picture_sets import PictureSet, find_set, pair_sets
from d2s_cli.images.reading import read_photo
from d2s_cli.manifest import FINISHED, MANIFEST_NAME, Manifest
from d2s_cli.metrics.pictures import Item
from d2s_cli.metrics.seam import seam

#: --reference that takes the inputs of a run
INPUTS = "inputs"
#: a run's inputs are whole pictures if their holes' edges show no more than this (median of a few)
INVISIBLE = 0.2
LOOKED_AT = 16


@dataclass(frozen=True)
class Sets:
    """Two sets of pictures, item by item.

    Attributes:
        items: pairs where both sides are pictures that belong together; else single pictures.
        results, truth: an .npz file, or None where the items have the pictures.
        results_name, truth_name: for reports.
        paired: every item has both sides.
        notes: what was decided.
        reference_hint: what else to type where there is no reference.
    """

    items: list[Item]
    results: Path | None
    truth: Path | None
    results_name: str
    truth_name: str
    paired: bool
    notes: list[str] = field(default_factory=list)
    reference_hint: str = ""

    @property
    def has_masks(self) -> bool:
        return any(item.mask is not None for item in self.items)

    @property
    def has_reference(self) -> bool:
        return self.truth is not None or any(item.truth for item in self.items)

    def count(self, side: str) -> int:
        """Pictures of one side, "result" or "truth"."""
        return sum(getattr(item, side) is not None for item in self.items)


def find_sets(
    results: Path | None,
    reference: str | None,
    masks: str | Path | None,
    settings: MaskSettings,
    pair: str,
    matched_only: bool,
    recursive: bool,
) -> Sets:
    """Everything that is to be read, matched before anything is computed.

    Args:
        results: folder, list, picture, .npz, or None for the last run in the working folder.
        reference: the same of the truths; "inputs" for those of a run; None if there is none, or
            for a run whose inputs turn out to be whole pictures.
        masks, settings: of the holes; a run's own where not given.
        pair, matched_only, recursive: see picture_sets.

    Raises:
        InputError: nothing there; sets that do not match; no mask for a picture.
        UsageError: no results given, and no run here.
    """
    run = _run_of(results)
    if run is not None and (results is None or reference in (None, INPUTS)):
        return _sets_of_run(run, reference, masks, settings)
    if results is None:
        raise UsageError(
            f"nothing to judge: no {MANIFEST_NAME} here or in a folder here",
            "try: d2s evaluate RESULTS --reference TRUTH --metric fid",
        )
    if reference == INPUTS and not Path(INPUTS).exists():
        raise UsageError(
            f"--reference inputs needs a run's folder with its {MANIFEST_NAME}",
            "try: --reference FOLDER with the true pictures",
        )
    return _sets_of_folders(results, reference, masks, settings, pair, matched_only, recursive)


def _sets_of_folders(
    results: Path,
    reference: str | None,
    masks: str | Path | None,
    settings: MaskSettings,
    pair: str,
    matched_only: bool,
    recursive: bool,
) -> Sets:
    judged = None if _is_statistics(results) else find_set(results, recursive)
    truth_path = None if reference is None else Path(reference)
    truths = None
    if truth_path is not None and not _is_statistics(truth_path):
        truths = find_set(truth_path, recursive)
    if judged is not None and truths is not None:
        items = _pairs(judged, truths, pair, matched_only)
    else:
        items = (
            [Item(name, result=path) for name, path in zip(judged.names, judged.paths, strict=True)]
            if judged
            else []
        )
        if truths is not None:
            items += [Item(n, truth=p) for n, p in zip(truths.names, truths.paths, strict=True)]
    if masks is not None:
        items = _with_masks(items, Path(masks), settings, pair, results)
    return Sets(
        items,
        results if judged is None else None,
        truth_path if truths is None else None,
        str(results),
        "" if reference is None else str(reference),
        judged is not None and truths is not None,
    )


def _is_statistics(path: Path) -> bool:
    if path.suffix.lower() != ".npz":
        return False
    if not path.is_file():
        raise InputError(f"no statistics at {path}", "make them with --save-stats")
    return True


def _pairs(judged: PictureSet, truths: PictureSet, pair: str, matched_only: bool) -> list[Item]:
    return [
        Item(truths.names[j], judged.paths[i], truths.paths[j])
        for i, j in pair_sets(judged, truths, pair, matched_only)
    ]


def _with_masks(
    items: list[Item], masks: Path, settings: MaskSettings, pair: str, results: Path
) -> list[Item]:
    if not masks.exists():
        raise InputError(
            f"no masks at {masks}", "try: --masks FOLDER, white where pixels were made"
        )
    if pair == "order" and masks.is_dir():
        found = find_set(masks, masks=True).paths
        if len(found) < len(items):
            raise InputError(
                f"{len(found)} masks in {masks} for {len(items)} pictures",
                "give a mask for each, or match by name",
            )
        chosen = list(found[: len(items)])
    else:
        chosen = [_mask_of(item, masks, results) for item in items]
    return [
        replace(item, mask=mask, mask_settings=settings)
        for item, mask in zip(items, chosen, strict=True)
    ]


def _mask_of(item: Item, masks: Path, results: Path) -> Path:
    candidates: list[Path] = []
    for picture in (item.truth, item.result):
        if picture is not None:
            below = results if picture is item.result and results.is_dir() else None
            candidates += find_masks(picture, masks, below, "name")
    unique = list(dict.fromkeys(candidates))
    if not unique:
        picture = item.truth or item.result
        assert picture is not None
        raise no_mask(picture, masks)
    if len(unique) > 1:
        named = [mask for mask in unique if item.result and mask.stem == item.result.stem]
        if len(named) != 1:
            raise InputError(
                f"more than one mask for {item.name}: {', '.join(map(str, unique))}",
                "keep one of them, or match by --pair order",
            )
        unique = named
    return unique[0]


def _run_of(results: Path | None) -> Path | None:
    """The manifest of a run: in the folder of results, else the last one written here."""
    if results is not None:
        path = results / MANIFEST_NAME
        return path if path.is_file() else None
    found = [p for p in (Path(MANIFEST_NAME), *Path().glob(f"*/{MANIFEST_NAME}")) if p.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _sets_of_run(
    manifest: Path, reference: str | None, masks: str | Path | None, settings: MaskSettings
) -> Sets:
    entries = [e for e in Manifest(manifest).entries.values() if e["status"] in FINISHED]
    if not entries:
        raise InputError(f"{manifest} lists no finished results", "run d2s inpaint or refine first")
    items = [_item(entry, manifest, masks, settings) for entry in entries]
    notes = [f"judging the {len(items)} results that {manifest} lists"]
    inputs = [Path(entry["input"]["path"]) for entry in entries]
    name, hint = reference or "", ""
    if reference is None:
        if _are_whole(items, inputs):
            reference = name = INPUTS
            notes.append(
                "ground truth: the run's inputs, since the edges of their holes cannot be seen; if"
                " the true pictures are elsewhere, give --reference"
            )
        else:
            hint = (
                " with the true pictures (the run's inputs are damaged where their holes are; if"
                " they are not: --reference inputs)"
            )
    if reference == INPUTS:
        items = [
            _with_truth(item, _there(path, manifest))
            for item, path in zip(items, inputs, strict=True)
        ]
    elif reference is not None:
        truth = Path(reference)
        if _is_statistics(truth):
            return Sets(items, None, truth, str(manifest.parent), reference, False, notes)
        items = [
            _with_truth(item, _truth_of(item, path, truth))
            for item, path in zip(items, inputs, strict=True)
        ]
    paired = reference is not None
    return Sets(items, None, None, str(manifest.parent), name, paired, notes, hint)


def _truth_of(item: Item, image: Path, truths: Path) -> Path:
    names = [image.stem, *([item.result.stem] if item.result else [])]
    return find_result(truths, image, names, None, "reference picture")


def _with_truth(item: Item, truth: Path) -> Item:
    return replace(item, truth=truth)


def _item(
    entry: dict[str, Any], manifest: Path, masks: str | Path | None, settings: MaskSettings
) -> Item:
    result = _there(Path(entry["output"]["path"]), manifest)
    image, mask = Path(entry["input"]["path"]), Path(entry["mask"]["path"])
    if masks is not None:
        found = find_masks(image, Path(masks), None, "name")
        if len(found) != 1:
            raise no_mask(image, Path(masks))
        return Item(result.stem, result, None, found[0], settings)
    recorded = entry["settings"].get("mask_settings", {})
    how = MaskSettings(**recorded)
    return Item(result.stem, result, None, _there(mask, manifest), how, marked=mask == image)


def _there(path: Path, manifest: Path) -> Path:
    """A path of a manifest, from here or from the manifest's own place."""
    for candidate in (path, manifest.parent / path.name, manifest.parent.parent / path):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"{manifest} lists {path}, which is not there",
        "call d2s where the run was started, or: d2s evaluate RESULTS --reference TRUTH",
    )


def _are_whole(items: list[Item], inputs: list[Path]) -> bool:
    """True if the edges of holes cannot be seen in the inputs: they were drawn into masks alone."""
    visible = []
    for item, path in list(zip(items, inputs, strict=True))[:LOOKED_AT]:
        if item.mask is None or item.marked or not path.is_file():
            return False
        photo = read_photo(path)
        found = seam(photo.rgb, read_mask(item.mask, photo, item.mask_settings).hole)
        if found is not None:
            visible.append(found.score)
    return bool(visible) and float(np.median(visible)) <= INVISIBLE
