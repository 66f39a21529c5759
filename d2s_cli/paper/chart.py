"""Curves as SVG and PNG: panels side by side, one scale of y, the same drawing in both files.

A drawing is a list of plain shapes; `svg` and `png` each write them in their own way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

#: told apart by most kinds of colour vision, and by dash and marker in print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ((), (7, 4), (2, 3), (9, 3, 2, 3), (4, 4), (1, 2), (12, 4))
GREY, INK = "#c8c8c8", "#222222"
PANEL_WIDTH, PANEL_HEIGHT = 420, 280
LEFT, TOP, GAP, BELOW, LEGEND_LINE = 70, 34, 66, 48, 18
#: PNG pixels are averaged from this many in each direction
FINER = 3
TICKS = 6


@dataclass(frozen=True)
class Series:
    """One curve; a single value of y for every x is drawn as a level line."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Line:
    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0
    dash: tuple[int, ...] = ()


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    colour: str


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    size: int = 12
    anchor: str = "middle"
    upright: bool = False


@dataclass(frozen=True)
class Drawing:
    """Shapes in the order in which they are drawn, on white."""

    width: int
    height: int
    shapes: tuple[Line | Dot | Text, ...]


def draw(panels: Sequence[Panel], title: str, x_label: str, y_label: str) -> Drawing:
    """The panels side by side with common scales, and a legend below each.

    Raises:
        ValueError: no point at all.
    """
    points = [p for panel in panels for one in panel.series for p in one.points]
    if not points:
        raise ValueError("nothing to draw")
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points))
    lines = max(len(panel.series) for panel in panels)
    width = LEFT + len(panels) * PANEL_WIDTH + (len(panels) - 1) * GAP + 20
    height = TOP + 24 + PANEL_HEIGHT + BELOW + lines * LEGEND_LINE + 8
    shapes: list[Line | Dot | Text] = [Text(width / 2, 20, title, 15)]
    for i, panel in enumerate(panels):
        place = _Place(LEFT + i * (PANEL_WIDTH + GAP), TOP + 24, x_ticks, y_ticks)
        shapes += _axes(place, panel.title, x_label, y_label if i == 0 else "")
        for number, series in enumerate(panel.series):
            shapes += _curve(place, series, number)
    return Drawing(width, height, tuple(shapes))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about TICKS of them."""
    if high <= low:
        room = abs(low) * 0.05 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Place:
    """Where a panel lies, and how its numbers become places."""

    left: float
    top: float
    x_ticks: list[float]
    y_ticks: list[float]

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return self.left + (value - low) / (high - low) * PANEL_WIDTH

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return self.top + (high - value) / (high - low) * PANEL_HEIGHT


def _axes(place: _Place, title: str, x_label: str, y_label: str) -> list[Line | Dot | Text]:
    right, bottom = place.left + PANEL_WIDTH, place.top + PANEL_HEIGHT
    shapes: list[Line | Dot | Text] = [Text(place.left + PANEL_WIDTH / 2, place.top - 8, title, 13)]
    for value in place.y_ticks:
        y = place.y(value)
        shapes.append(Line(((place.left, y), (right, y)), GREY))
        shapes.append(Text(place.left - 8, y + 4, f"{value:.6g}", 11, "end"))
    for value in place.x_ticks:
        x = place.x(value)
        shapes.append(Line(((x, bottom), (x, bottom + 5)), INK))
        shapes.append(Text(x, bottom + 18, f"{value:.6g}", 11))
    corners = ((place.left, place.top), (place.left, bottom), (right, bottom))
    shapes.append(Line(corners, INK, 1.2))
    shapes.append(Text(place.left + PANEL_WIDTH / 2, bottom + 36, x_label))
    if y_label:
        shapes.append(Text(place.left - 52, place.top + PANEL_HEIGHT / 2, y_label, upright=True))
    return shapes


def _curve(place: _Place, series: Series, number: int) -> list[Line | Dot | Text]:
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    at = tuple((place.x(x), place.y(y)) for x, y in series.points)
    flat = len({y for _, y in series.points}) == 1 and len(at) > 1
    shapes: list[Line | Dot | Text] = [Line(at, colour, 2.0, dash)] if len(at) > 1 else []
    shapes += [] if flat else [Dot(x, y, colour) for x, y in at]
    y = place.top + PANEL_HEIGHT + BELOW + number * LEGEND_LINE + 6
    shapes.append(Line(((place.left, y), (place.left + 36, y)), colour, 2.0, dash))
    shapes += [] if flat else [Dot(place.left + 18, y, colour)]
    missing = "" if at else " (no results)"
    shapes.append(Text(place.left + 44, y + 4, series.name + missing, 12, "start"))
    return shapes


def svg(drawing: Drawing) -> str:
    """An SVG document."""
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width} {drawing.height}"'
        f' width="{drawing.width}" height="{drawing.height}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
        *(_svg_shape(shape) for shape in drawing.shapes),
        "</svg>",
    ]
    return "\n".join(rows) + "\n"


def _svg_shape(shape: Line | Dot | Text) -> str:
    if isinstance(shape, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        dash = f' stroke-dasharray="{" ".join(map(str, shape.dash))}"' if shape.dash else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{shape.colour}"'
            f' stroke-width="{shape.width:g}"{dash}/>'
        )
    if isinstance(shape, Dot):
        return f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="3.2" fill="{shape.colour}"/>'
    turn = f' transform="rotate(-90 {shape.x:.1f} {shape.y:.1f})"' if shape.upright else ""
    return (
        f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" fill="{INK}"'
        f' text-anchor="{shape.anchor}"{turn}>{escape(shape.text)}</text>'
    )


def write_png(drawing: Drawing, path: Path) -> None:
    """The same as PNG, one pixel for each unit of the SVG."""
    size = (drawing.width * FINER, drawing.height * FINER)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for shape in drawing.shapes:
        if isinstance(shape, Line):
            for points in _dashes(shape):
                scaled = [(x * FINER, y * FINER) for x, y in points]
                pen.line(scaled, shape.colour, max(1, round(shape.width * FINER)), "curve")
        elif isinstance(shape, Dot):
            x, y, r = shape.x * FINER, shape.y * FINER, 3.2 * FINER
            pen.ellipse((x - r, y - r, x + r, y + r), shape.colour)
    picture = picture.resize((drawing.width, drawing.height), Image.Resampling.BOX)
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            _write(picture, shape)
    picture.quantize(128).save(path, optimize=True)


def _write(picture: Image.Image, text: Text) -> None:
    font = ImageFont.load_default(text.size)
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[text.anchor]
    if not text.upright:
        ImageDraw.Draw(picture).text((text.x, text.y), text.text, INK, font, anchor)
        return
    left, top, right, bottom = ImageDraw.Draw(picture).textbbox((0, 0), text.text, font)
    label = Image.new("RGB", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2), "white")
    ImageDraw.Draw(label).text((1 - left, 1 - top), text.text, INK, font)
    label = label.rotate(90, expand=True)
    picture.paste(label, (round(text.x - label.width), round(text.y - label.height / 2)))


def _dashes(line: Line) -> list[tuple[tuple[float, float], ...]]:
    """The pieces of a line that are drawn, by its dash lengths."""
    if not line.dash:
        return [line.points]
    pieces, piece = [], [line.points[0]]
    which, left = 0, float(line.dash[0])
    for (x0, y0), (x1, y1) in itertools.pairwise(line.points):
        length = math.hypot(x1 - x0, y1 - y0)
        done = 0.0
        while length - done > left:
            done += left
            here = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if which % 2 == 0:
                pieces.append((*piece, here))
            piece = [here]
            which += 1
            left = float(line.dash[which % len(line.dash)])
        left -= length - done
        if which % 2 == 0:
            piece.append((x1, y1))
    if which % 2 == 0 and len(piece) > 1:
        pieces.append(tuple(piece))
    return pieces
