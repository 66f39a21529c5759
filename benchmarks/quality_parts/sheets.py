"""Contact sheets of the best and the worst results, and the credits of the photographs on them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from quality_parts.crops import CropSet, Pictures
from quality_parts.tables import table

#: results on a sheet, in columns
ROWS, COLUMNS = 10, 2
#: pixels of a picture's side, between pictures, and of a line of text
SIDE, GAP, TEXT = 128, 4, 14
LARGEST = 600_000
QUALITIES = range(88, 40, -4)
MARK = (235, 40, 150)
HEADS = ("hole", "guide alone", "d2s", "truth")
#: licences that let a photograph be shown in changed form with no more than a credit
SHOWABLE = ("CC0/PD", "CC-BY")
#: of these the licence is not certain
UNCERTAIN = "stock site"

Source = Mapping[str, str]


@dataclass(frozen=True)
class Shown:
    """What the sheets of one guide show.

    Attributes:
        guide: its name.
        crops: with their holes.
        alone, final: the guide's results, and those of d2s at its defaults.
        perceptual: of the final results, a number for each crop.
    """

    guide: str
    crops: CropSet
    alone: Pictures
    final: Pictures
    perceptual: NDArray[np.float64]


def read_sources(path: Path, folder: str) -> dict[str, Source]:
    """Lines of the CSV by file name, of pictures in `folder`."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    pairs = ((line["file"].rpartition("/"), line) for line in lines)
    return {name: line for (parent, _, name), line in pairs if parent == folder}


def showable(source: Source | None) -> bool:
    if source is None or UNCERTAIN in source["licence"]:
        return False
    return source["licence_class"] in SHOWABLE


def ranked(shown: Shown, sources: Mapping[str, Source]) -> list[int]:
    """Numbers of the crops that may be shown, best first.

    By perceptual distance over the hole's share: the distance itself is a mean over the whole
    picture, and would put small holes first.
    """
    distance = shown.perceptual / shown.crops.holes.mean(axis=(1, 2))
    order = np.argsort(distance, kind="stable")
    return [int(i) for i in order if showable(sources.get(shown.crops.paths[i].name))]


def draw_sheet(shown: Shown, numbers: Sequence[int]) -> Image.Image:
    """One line for each number, in COLUMNS columns: hole, guide alone, result, truth."""
    width = len(HEADS) * (SIDE + GAP)
    height = SIDE + GAP + TEXT
    rows = -(-len(numbers) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + 3 * GAP), TEXT + rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(COLUMNS):
        for place, head in enumerate(HEADS):
            draw.text((column * (width + 3 * GAP) + place * (SIDE + GAP), 1), head, fill="black")
    for place, number in enumerate(numbers):
        left = place // rows * (width + 3 * GAP)
        top = TEXT + place % rows * height
        hole = shown.crops.holes[number]
        truth = shown.crops.truths[number]
        marked = np.where(hole[..., None], np.uint8(MARK), truth)
        for i, picture in enumerate((marked, shown.alone[number], shown.final[number], truth)):
            small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            sheet.paste(Image.fromarray(small), (left + i * (SIDE + GAP), top))
        name = shown.crops.paths[number].stem
        text = f"{name}, hole {100 * hole.mean():.0f} %"
        draw.text((left, top + SIDE), text, fill="black")
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> int:
    """As JPEG of the best quality within LARGEST bytes; returns its size."""
    data = b""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= LARGEST:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return len(data)


def write_sheets(shown: Shown, sources: Mapping[str, Source], folder: Path) -> list[Path]:
    """GUIDE-best.jpg and GUIDE-worst.jpg into the folder; returns the crops on them."""
    order = ranked(shown, sources)
    count = min(ROWS * COLUMNS, len(order) // 2)
    if count == 0:
        raise SystemExit("too few pictures that may be shown: see --sources")
    ends = {"best": order[:count], "worst": order[-count:][::-1]}
    for end, numbers in ends.items():
        path = folder / f"{shown.guide}-{end}.jpg"
        print(f"{path}: {save_sheet(draw_sheet(shown, numbers), path)} bytes", flush=True)
    return [shown.crops.paths[number] for numbers in ends.values() for number in numbers]


def credits_table(paths: Sequence[Path], sources: Mapping[str, Source]) -> str:
    """Who made the photographs of these crops, and their licences."""
    lines = []
    for path in sorted(set(paths)):
        source: Any = sources[path.name]
        cells = (source["source"], source["original"], source["author_or_credit"])
        lines.append([path.stem, *map(_escaped, cells), _escaped(source["licence"])])
    return table(["crop", "source", "photograph", "author or credit line", "licence"], lines)


def _escaped(text: str) -> str:
    for mark in "\\|*_`<[]":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
