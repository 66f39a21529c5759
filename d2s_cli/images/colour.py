"""Samples of every kind of picture to RGB and back.

A kind is the names of the channels: L (grey), RGB, CMYK, with an A at the end for alpha.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

#: channels by kind of picture
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
#: share of each channel in a grey level (Rec. 601, as in JPEG)
_LUMA = np.array([0.299, 0.587, 0.114])
#: pixels that are converted at a time where that needs copies in between
_BLOCK = 1 << 22


def has_alpha(kind: str) -> bool:
    return kind.endswith("A")


def colours(kind: str) -> int:
    """Channels without alpha."""
    return CHANNELS[kind] - has_alpha(kind)


def to_rgb(samples: NDArray[Any], kind: str, icc: bytes = b"") -> NDArray[Any]:
    """H x W x C to H x W x 3 of the same type, alpha left out.

    A view for grey and RGB; CMYK goes through its profile, or by the plain formula without one.
    """
    if kind == "CMYK":
        return _cmyk_to_rgb(samples, icc)
    flat: NDArray[Any] = samples[..., : colours(kind)]
    if colours(kind) == 3:
        return flat
    return np.broadcast_to(flat, (*flat.shape[:2], 3))


def from_rgb(pixels: NDArray[Any], kind: str, icc: bytes = b"") -> NDArray[Any]:
    """Some RGB pixels, N x 3, to samples of a kind, N x C of the same type, opaque."""
    if kind == "CMYK":
        inked: NDArray[Any] = _through_profile(pixels[None], icc, back=True)[0]
        return inked
    if colours(kind) == 1:
        pixels = (pixels @ _LUMA).round().astype(pixels.dtype)[:, None]
    return with_alpha(pixels) if has_alpha(kind) else pixels


def with_alpha(samples: NDArray[Any]) -> NDArray[Any]:
    """The samples and one more channel, opaque."""
    opaque = np.full((*samples.shape[:-1], 1), np.iinfo(samples.dtype).max, samples.dtype)
    return np.concatenate([samples, opaque], axis=-1)


def convert(
    samples: NDArray[Any], kind: str, target: str, dtype: Any, icc: bytes = b""
) -> NDArray[Any]:
    """H x W x C of one kind and depth to another; the same array where nothing is to do.

    Args:
        samples: uint8 or uint16.
        kind: of the samples.
        target: kind to make; the same, one without alpha, or an RGB kind.
        dtype: uint8 or uint16.
        icc: profile of CMYK samples.
    """
    alpha = samples[..., -1:]
    if target != kind:
        flat = colours(target) == colours(kind)
        samples = samples[..., : colours(kind)] if flat else to_rgb(samples, kind, icc)
        if has_alpha(target):
            samples = np.concatenate([samples, alpha], axis=2)
    if samples.dtype != dtype:
        samples = (np.add(samples, 128, dtype=np.uint32) // 257).astype(dtype)
    return samples


def _cmyk_to_rgb(samples: NDArray[Any], icc: bytes) -> NDArray[Any]:
    rgb = np.empty((*samples.shape[:2], 3), np.uint8)
    rows = max(1, _BLOCK // samples.shape[1])
    for top in range(0, len(samples), rows):
        rgb[top : top + rows] = _through_profile(samples[top : top + rows], icc)
    return rgb


def _through_profile(pixels: NDArray[Any], icc: bytes, back: bool = False) -> NDArray[Any]:
    """CMYK to RGB, or RGB to CMYK if `back`; H x W x C, uint8."""
    source, target = ("RGB", "CMYK") if back else ("CMYK", "RGB")
    picture = picture_of(pixels, source)
    transform = _transform(icc, back)
    if transform is None:
        return np.asarray(picture.convert(target))
    return np.asarray(ImageCms.applyTransform(picture, transform))


def is_usable_profile(icc: bytes) -> bool:
    """True if CMYK colours can be converted by this profile, both ways."""
    return _transform(icc, False) is not None and _transform(icc, True) is not None


@lru_cache(maxsize=8)
def _transform(icc: bytes, back: bool) -> ImageCms.ImageCmsTransform | None:
    """None without a CMYK profile that works in this direction."""
    if icc[16:20] != b"CMYK":
        return None
    try:
        cmyk = (ImageCms.ImageCmsProfile(io.BytesIO(icc)), "CMYK")
        rgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), "RGB")
        source, target = (rgb, cmyk) if back else (cmyk, rgb)
        return ImageCms.buildTransform(
            source[0],
            target[0],
            source[1],
            target[1],
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None


def picture_of(samples: NDArray[Any], kind: str) -> Image.Image:
    """uint8 samples H x W x C as Pillow's image."""
    height, width = samples.shape[:2]
    data = np.ascontiguousarray(samples)
    return Image.frombuffer(kind, (width, height), data, "raw", kind, 0, 1)
