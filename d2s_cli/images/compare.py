"""Pictures before and after: what changed where, side by side, as a map, and under a slider."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.drawings import write_drawing
from d2s_cli.images.finding import GUIDE_PATTERNS, find_masks, find_result, find_sources, no_mask
from d2s_cli.images.formats import format_of
from d2s_cli.images.masks import Hole, MaskSettings, read_mask, transparency
from d2s_cli.images.pairing import refuse_existing
from d2s_cli.images.photo import Photo
from d2s_cli.images.preview import to_8_bit
from d2s_cli.images.reading import read_photo

#: pixels between the panels of a sheet, and their colour
GAP = 8
GAP_COLOR = 255
#: how results are named, tried in this order; {} is the stem of the picture before
AFTER_PATTERNS = ("{}", "{}_d2s", *GUIDE_PATTERNS[1:])


@dataclass
class Comparison:
    """Two pictures of one size and what differs. Levels are those of the deeper of the two files.

    Attributes:
        before, after: as read, upright.
        mask: where the hole came from; None if there is none, and every pixel counts as outside.
        hole: H x W, True where changes are meant to be.
        difference: H x W, largest difference of the channels (transparency is one), levels.
        peak: the largest level, 255 or 65535.
        notes: what was decided about the mask, and what is odd about it.
    """

    before: Photo
    after: Photo
    mask: Path | None
    hole: Hole
    difference: NDArray[np.int32]
    peak: int
    notes: list[str]

    def counts(self, tolerance: int = 0) -> dict[str, int]:
        """Pixels that differ by more than `tolerance` levels and the largest difference, outside
        and inside the hole."""
        numbers = {}
        for name, where in (("outside", ~self.hole), ("inside", self.hole)):
            levels = self.difference[where]
            numbers[f"changed_{name}"] = int((levels > tolerance).sum())
            numbers[f"largest_{name}"] = int(levels.max(initial=0))
        return numbers


def compare(
    before: Path,
    after: Path,
    mask: Path | None = None,
    settings: MaskSettings | None = None,
    below: Path | None = None,
) -> Comparison:
    """Compare two picture files.

    Args:
        before, after: the files.
        mask: mask file or folder; None looks for one as `inpaint` does, and without any there is
            no hole.
        settings: how the mask is read.
        below: folder that `before` was found in.

    Raises:
        InputError: unreadable; of different sizes; a mask was asked for and there is none, or
            there is more than one.
    """
    settings = settings or MaskSettings()
    photos = read_photo(before), read_photo(after)
    _refuse_other_size(*photos)
    peak = max(int(np.iinfo(photo.rgb.dtype).max) for photo in photos)
    hole, notes = np.zeros(photos[0].rgb.shape[:2], bool), []
    found = _one_mask(before, mask, below, settings)
    if found is not None:
        read = read_mask(found, photos[0], settings)
        hole, notes = read.hole, read.warnings + read.notes
    return Comparison(*photos, found, hole, _difference(*photos, peak), peak, notes)


def _difference(before: Photo, after: Photo, peak: int) -> NDArray[np.int32]:
    first, second = (_levels(photo, peak) for photo in (before, after))
    return np.asarray(np.abs(first - second).max(axis=2))


def _levels(photo: Photo, peak: int) -> NDArray[np.int32]:
    """H x W x 4: red, green, blue and transparency, 0 to `peak`."""
    levels = np.zeros((*photo.rgb.shape[:2], 4), np.int32)
    levels[..., :3] = photo.rgb
    levels *= peak // np.iinfo(photo.rgb.dtype).max
    clear = transparency(photo)
    if clear is not None:
        levels[..., 3] = (clear * peak).round()
    return levels


def _refuse_other_size(before: Photo, after: Photo) -> None:
    if before.size != after.size:
        sizes = [f"{p.path} is {p.size[0]}x{p.size[1]}" for p in (before, after)]
        raise InputError(
            f"pictures differ in size: {sizes[0]}, {sizes[1]}",
            "compare pictures of one size; d2s does not stretch them",
        )


def _one_mask(
    image: Path, mask: Path | None, below: Path | None, settings: MaskSettings
) -> Path | None:
    masks = find_masks(image, mask, below, settings.source, settings.names)
    if not masks and mask is not None:
        raise no_mask(image, mask, settings.names)
    if len(masks) > 1:
        raise InputError(
            f"more than one mask for {image}: {', '.join(map(str, masks))}",
            f"try: --mask {masks[0]}",
        )
    return masks[0] if masks else None


def pair_results(
    before: Path, after: Path, recursive: bool = False, names: Sequence[str] = ()
) -> list[tuple[Path, Path, Path | None]]:
    """Pictures before and after, and the folder that the first was found in.

    Args:
        before: a file, or a folder; then `after` is a folder with results of the same names.
        recursive: go into subfolders.
        names: how masks are named, which are no pictures.

    Raises:
        InputError: nothing there, or a picture without result.
        UsageError: a file against a folder of several.
    """
    if before.is_dir() and not after.is_dir():
        raise UsageError(f"{before} is a folder and {after} is none", "give two files or folders")
    pairs = []
    for image, below in find_sources([before], recursive, [after], names):
        names = [pattern.format(image.stem) for pattern in AFTER_PATTERNS]
        pairs.append((image, find_result(after, image, names, below, "result"), below))
    return pairs


def heat_map(comparison: Comparison, gain: float) -> NDArray[np.uint8]:
    """H x W x 3: grey where meant to change, red where not; `gain` times as bright as it is."""
    level = (comparison.difference * (255 / comparison.peak * gain)).clip(0, 255)
    picture = np.repeat(level.round().astype(np.uint8)[..., None], 3, axis=2)
    picture[~comparison.hole, 1:] = 0
    if comparison.mask is None:
        picture[...] = picture[..., :1]
    return picture


def sheet(comparison: Comparison, gain: float, max_side: int) -> NDArray[np.uint8]:
    """Before, after and the difference in a row, each at most `max_side` pixels long."""
    panels = [
        _reduced(panel, max_side)
        for panel in (
            to_8_bit(comparison.before.rgb),
            to_8_bit(comparison.after.rgb),
            heat_map(comparison, gain),
        )
    ]
    gap = np.full((panels[0].shape[0], GAP, 3), GAP_COLOR, np.uint8)
    return np.hstack([panels[0], gap, panels[1], gap, panels[2]])


def _reduced(picture: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


SLIDER_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ margin: 0; padding: 1rem; font: 1rem system-ui, sans-serif;
          background: #222; color: #eee }}
  figure {{ --at: 50%; position: relative; width: fit-content; max-width: 100%; margin: 0 auto;
            touch-action: pan-y; cursor: ew-resize }}
  img {{ display: block; max-width: 100%; user-select: none; -webkit-user-drag: none }}
  img + img {{ position: absolute; inset: 0; width: 100%; height: 100%;
               clip-path: inset(0 0 0 var(--at)) }}
  figure::after {{ content: ""; position: absolute; top: 0; bottom: 0; left: var(--at);
                   border-left: 2px solid #fff; margin-left: -1px; pointer-events: none }}
  input {{ display: block; width: min(100%, 40rem); margin: 1rem auto }}
  p {{ text-align: center }}
</style>
<figure>
  <img alt="before" src="{before}">
  <img alt="after" src="{after}">
</figure>
<input type="range" min="0" max="100" step="0.1" value="50" aria-label="divider">
<p>{caption}</p>
<script>
  const figure = document.querySelector("figure"), range = document.querySelector("input");
  const show = () => figure.style.setProperty("--at", range.value + "%");
  const follow = event => {{
    const box = figure.getBoundingClientRect();
    range.value = 100 * (event.clientX - box.left) / box.width;
    show();
  }};
  range.addEventListener("input", show);
  figure.addEventListener("pointerdown", event => {{
    event.preventDefault();
    figure.setPointerCapture(event.pointerId);
    follow(event);
  }});
  figure.addEventListener("pointermove", event => {{ if (event.buttons) follow(event); }});
</script>
</html>
"""


def slider_page(comparison: Comparison) -> str:
    """One HTML page with both pictures inside it and a divider to drag; it loads nothing else."""
    names = [html.escape(photo.path.name) for photo in (comparison.before, comparison.after)]
    return SLIDER_PAGE.format(
        title=f"{names[0]} and {names[1]}",
        caption=f"left: {names[0]}, right: {names[1]}",
        before=_data_uri(comparison.before),
        after=_data_uri(comparison.after),
    )


def _data_uri(photo: Photo) -> str:
    """The upright picture as 8-bit PNG: what is seen is what the files hold."""
    file = io.BytesIO()
    Image.fromarray(to_8_bit(photo.rgb)).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Pictures:
    """What to write of a comparison; None leaves it out.

    Attributes:
        sheet: before, after and difference in a row.
        slider: HTML page.
        difference: map of the difference.
        gain: how much brighter differences are drawn than they are.
        max_side: of a sheet's panels, pixels.
    """

    sheet: Path | None = None
    slider: Path | None = None
    difference: Path | None = None
    gain: float = 8.0
    max_side: int = 1024

    def paths(self) -> list[Path]:
        return [p for p in (self.sheet, self.slider, self.difference) if p is not None]


def check_pictures(
    pictures: Sequence[Pictures], inputs: Sequence[Path], force: bool = False
) -> None:
    """Raise InputError for a name without known format, a file that exists already, or one of the
    inputs."""
    for one in pictures:
        for path in (one.sheet, one.difference):
            if path is not None:
                format_of(path)
    refuse_existing([path for one in pictures for path in one.paths()], force, inputs)


def write_pictures(comparison: Comparison, pictures: Pictures) -> list[Path]:
    """Write what was asked for; returns the files."""
    if pictures.sheet is not None:
        write_drawing(sheet(comparison, pictures.gain, pictures.max_side), pictures.sheet)
    if pictures.difference is not None:
        write_drawing(heat_map(comparison, pictures.gain), pictures.difference)
    if pictures.slider is not None:
        try:
            pictures.slider.parent.mkdir(parents=True, exist_ok=True)
            pictures.slider.write_text(slider_page(comparison), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {pictures.slider}: {error}") from error
    return pictures.paths()
