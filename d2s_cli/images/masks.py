"""Mask files to holes: polarity, threshold, size and orientation are settled here, once."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.colour import has_alpha
from d2s_cli.images.files import check_file, typed
from d2s_cli.images.photo import Photo, upright
from d2s_cli.images.reading import READ_ERRORS

POLARITIES = ("white", "black", "auto")
#: where a hole comes from; a key colour, color=#RRGGBB, is the fourth
SOURCES = ("auto", "name", "alpha")
#: what becomes of a mask of another size than the picture
FITS = ("error", "resize", "pad")
#: above this share of hole, a mask that also covers most of the border is probably inverted
SUSPICIOUS_SHARE = 0.6
#: 8-bit levels by which a pixel may differ from a key colour in each channel
KEY_TOLERANCE = 8

Hole = NDArray[np.bool_]
Color = tuple[int, int, int]

#: grey levels nearer than this to black or white are what compression makes of them, 0 to 1
NEAR_BLACK = 0.2
#: a mask with more grey than this is likely no mask; blurred ones have a few percent
PHOTO_SHARE = 0.25


@dataclass(frozen=True)
class MaskSettings:
    """How a mask is read.

    Attributes:
        polarity: which side is the hole, "white" or "black"; "auto" takes the side that covers less
            of the picture and of its border. In a picture's own alpha or key colour, "black" makes
            the rest the hole.
        threshold: grey level (or transparency), 0 to 1, from which a pixel is white.
        grow: pixels to grow the hole by; negative shrinks it.
        source: one of SOURCES or color=#RRGGBB; see finding.find_masks.
        fit: what becomes of a mask of another size: "error"; "resize" stretches it; "pad" cuts it,
            or adds known pixels to it, at the right and bottom.
        names: how masks are named, patterns with {stem} and perhaps *; none takes the usual names.

    Raises:
        UsageError: a value that means nothing.
    """

    polarity: str = "white"
    threshold: float = 0.5
    grow: int = 0
    source: str = "auto"
    fit: str = "error"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.polarity not in POLARITIES:
            raise UsageError(
                f"unknown --polarity {self.polarity!r}", f"one of: {', '.join(POLARITIES)}"
            )
        if self.source not in SOURCES and key_color(self.source) is None:
            raise UsageError(
                f"unknown mask source {self.source!r}",
                f"one of: {', '.join(SOURCES)}, color=#RRGGBB",
            )
        if self.fit not in FITS:
            raise UsageError(f"unknown --fit-mask {self.fit!r}", f"one of: {', '.join(FITS)}")
        for name in self.names:
            if name.count("{stem}") != 1:
                raise UsageError(
                    f"--mask-name {name!r} does not say where the picture's name stands",
                    "try: --mask-name '{stem}_hole*'",
                )


@dataclass
class Mask:
    """Upright bool hole, True where pixels are made; what is odd about it, and what was decided."""

    hole: Hole
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_mask(path: Path, photo: Photo, settings: MaskSettings | None = None) -> Mask:
    """Read the mask of a photo.

    A mask drawn on the upright picture fits it directly; one made for the stored pixels of a
    rotated photo is turned. Anything else is an error unless `settings.fit` says what to do, since
    stretching would move the hole.

    Args:
        path: the mask; the photo's own path takes the hole from its alpha or the key colour.
        photo: the damaged picture.
        settings: how to read it.

    Raises:
        InputError: missing, unreadable, or of another size; no transparency to go by.
    """
    settings = settings or MaskSettings()
    notes: list[str] = []
    odd: list[str] = []
    if path == photo.path and settings.source != "name":
        white = hole_in_picture(photo, settings)
        hole = ~white if settings.polarity == "black" else white
    else:
        stored = read_grey(path)
        grey = fit_grey(stored, photo, path, settings)
        white = grey >= settings.threshold
        if settings.threshold == MaskSettings.threshold:  # else it is known to be grey
            odd += _no_mask_at_all(grey, path)
        if set(stored.shape) != set(photo.size):
            sizes = f"{stored.shape[1]}x{stored.shape[0]} to {photo.size[0]}x{photo.size[1]}"
            how = "stretched" if settings.fit == "resize" else "cut or padded"
            notes.append(f"{path}: {how} from {sizes}")
        side = settings.polarity
        if side == "auto":
            side = likely_side(white)
            notes.append(
                f"{path}: {side} is taken as the hole; white covers {white.mean():.1%} of the"
                f" picture and {border_share(white):.0%} of its border"
            )
        hole = ~white if side == "black" else white
    hole = grow_hole(hole, settings.grow)
    return Mask(hole, odd + _oddities(hole, path, settings), notes)


def read_grey(path: Path) -> NDArray[np.float32]:
    """A mask file as it is stored, H x W, 0 (black) to 1 (white).

    Raises:
        InputError: missing or unreadable.
    """
    check_file(path, "mask", "try: --mask FILE, white where pixels are missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is said below
            with Image.open(path) as file:
                file.load()
                return _grey(file)
    except READ_ERRORS as error:
        raise InputError(
            f"cannot read mask {path}: {error}",
            "make it again, white where pixels are missing, for example as PNG",
        ) from error


def hole_in_picture(photo: Photo, settings: MaskSettings) -> Hole:
    """The hole that a picture marks itself: its key colour, else where it is transparent.

    Raises:
        InputError: no key colour is asked for, and the picture has no transparency.
    """
    if (color := key_color(settings.source)) is not None:
        return color_hole(photo.rgb, color)
    clear = transparency(photo)
    if clear is None:
        raise InputError(
            f"{photo.path} has no transparency to take the hole from",
            "try: --mask FILE, white where pixels are missing",
        )
    return clear >= settings.threshold


def transparency(photo: Photo) -> NDArray[np.float32] | None:
    """Upright H x W, 0 (opaque) to 1 (clear); None if the picture has no alpha."""
    if not has_alpha(photo.kind):
        return None
    alpha = upright(photo.samples[..., -1], photo.orientation).astype(np.float32)
    return np.asarray(1 - alpha / np.iinfo(photo.samples.dtype).max, np.float32)


def has_transparent_pixels(path: Path) -> bool:
    """True if a picture file has pixels that are more clear than opaque; False if unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as file:
                if not _has_alpha(file):
                    return False
                darkest = file.convert("RGBA").getchannel("A").getextrema()[0]
    except READ_ERRORS:
        return False  # reading it for restoring says why
    return bool(np.less(darkest, 128))


def _has_alpha(file: Image.Image) -> bool:
    has_alpha = "A" in file.getbands() or "transparency" in file.info
    return has_alpha and not file.mode.startswith("I")


def key_color(source: str) -> Color | None:
    """The colour in color=#RRGGBB; None for other text."""
    match = re.fullmatch(r"color=#?([0-9a-fA-F]{6})", source)
    if match is None:
        return None
    red, green, blue = bytes.fromhex(match[1])
    return red, green, blue


def color_hole(rgb: NDArray[Any], color: Color, tolerance: int = KEY_TOLERANCE) -> Hole:
    """Pixels of a key colour.

    Args:
        rgb: H x W x 3, uint8 or uint16.
        color: 8-bit levels.
        tolerance: 8-bit levels by which each channel may differ.
    """
    scale = np.iinfo(rgb.dtype).max // 255
    away = np.abs(rgb.astype(np.int32) - np.array(color, np.int32) * scale)
    return np.asarray((away <= tolerance * scale).all(axis=2))


def border_share(white: Hole) -> float:
    """Share of the outermost pixels that are white."""
    return float(np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]]).mean())


def likely_side(white: Hole) -> str:
    """The side, "white" or "black", that covers less of the picture and its border together."""
    return "white" if float(white.mean()) + border_share(white) <= 1 else "black"


def _grey(file: Image.Image) -> NDArray[np.float32]:
    """0 to 1. An alpha channel does not count, unless the picture is nothing but alpha."""
    if file.mode.startswith("I"):
        deep = np.asarray(file).astype(np.float32)
        return deep / (65535.0 if deep.max(initial=0) > 255 else 255.0)
    if file.mode == "F":
        levels = np.nan_to_num(np.asarray(file, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        largest = levels.max(initial=0)
        return levels / np.float32(1 if largest <= 1 else 255 if largest <= 255 else 65535)
    if not _has_alpha(file):
        return np.asarray(file.convert("L"), np.float32) / 255.0
    pixels = np.asarray(file.convert("RGBA"), np.float32) / 255.0
    alpha = pixels[..., 3]
    one_colour = (pixels[..., :3] == pixels[0, 0, :3]).all()
    if one_colour and alpha.min() < alpha.max():
        return alpha
    return np.asarray(file.convert("RGBA").convert("L"), np.float32) / 255.0


def fit_grey(
    grey: NDArray[np.float32], photo: Photo, path: Path, settings: MaskSettings
) -> NDArray[np.float32]:
    """A mask as read, upright like the photo and of its size.

    Raises:
        InputError: of another size, and `settings` do not say what to do then.
    """
    width, height = photo.size
    if grey.shape == (height, width):
        return grey
    if photo.orientation != 1 and grey.shape == (width, height):
        return np.ascontiguousarray(upright(grey, photo.orientation))
    if settings.fit == "resize":
        larger = grey.shape[0] > height and grey.shape[1] > width
        how = cv2.INTER_AREA if larger else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(grey, (width, height), interpolation=how), np.float32)
    if settings.fit == "pad":
        known = 1.0 if settings.polarity == "black" else 0.0
        padded = np.full((height, width), known, np.float32)
        rows, columns = min(height, grey.shape[0]), min(width, grey.shape[1])
        padded[:rows, :columns] = grey[:rows, :columns]
        return padded
    raise InputError(
        f"mask and image differ in size: {photo.path} is {width}x{height},"
        f" {path} is {grey.shape[1]}x{grey.shape[0]}",
        "make the mask at the picture's own size, since stretching it may move the hole\n"
        f"to look first: d2s mask preview {typed(photo.path)} -m {typed(path)} --fit-mask resize",
    )


def grow_hole(hole: Hole, pixels: int) -> Hole:
    """Grow (or shrink, if negative) by a disc of that radius."""
    if pixels == 0:
        return hole
    radius = abs(pixels)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    operation = cv2.dilate if pixels > 0 else cv2.erode
    return np.asarray(operation(hole.astype(np.uint8), disc)).astype(bool)


def looks_inverted(hole: Hole) -> bool:
    """True if a hole covers much of the picture and most of its border, but not all of it."""
    return SUSPICIOUS_SHARE < hole.mean() < 1 and border_share(hole) > 0.5


def _no_mask_at_all(grey: NDArray[np.float32], path: Path) -> list[str]:
    share = float(((grey > NEAR_BLACK) & (grey < 1 - NEAR_BLACK)).mean())
    if share < PHOTO_SHARE:
        return []
    return [
        f"{path} is neither black nor white in {share:.0%} of its pixels; is it the picture, and"
        " the picture its mask? try: d2s inpaint PICTURE --mask MASK"
    ]


def _oddities(hole: Hole, path: Path, settings: MaskSettings) -> list[str]:
    if not hole.any():
        return [f"{path} marks no hole; the picture is copied"]
    if looks_inverted(hole) and settings.polarity != "auto":
        other = "black" if settings.polarity == "white" else "white"
        return [
            f"{path} marks {hole.mean():.1%} of the picture and {border_share(hole):.0%} of its"
            f" border as hole; is it inverted? try: --polarity {other}"
        ]
    return []
