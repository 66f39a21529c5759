"""A small CMYK profile, since none ships with Pillow: ink coverages of a made-up press."""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

GRID = 9


def _lut(channels: tuple[int, int], grid: int, table: NDArray[np.uint8]) -> bytes:
    """A lut8Type tag: straight curves round a table."""
    head = struct.pack(">4sIBBBB", b"mft1", 0, *channels, grid, 0)
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    curve = bytes(range(256))
    return head + matrix + curve * channels[0] + table.tobytes() + curve * channels[1]


def _converted(table: NDArray[np.uint8], source: str, target: str) -> NDArray[np.uint8]:
    profiles = {"RGB": ImageCms.createProfile("sRGB"), "LAB": ImageCms.createProfile("LAB")}
    transform = ImageCms.buildTransform(profiles[source], profiles[target], source, target)
    picture = Image.frombuffer(source, (len(table), 1), table.tobytes(), "raw", source, 0, 1)
    return np.asarray(ImageCms.applyTransform(picture, transform)).reshape(-1, 3).copy()


def _to_lab(cmyk: NDArray[np.float64]) -> NDArray[np.uint8]:
    rgb = 255 * (1 - cmyk[:, :3]) * (1 - cmyk[:, 3:])
    lab = _converted(rgb.round().astype(np.uint8), "RGB", "LAB")
    lab[:, 1:] += 128  # Pillow's a and b are signed
    return lab


def _from_lab(lab: NDArray[np.uint8]) -> NDArray[np.uint8]:
    signed = lab.copy()
    signed[:, 1:] -= 128
    rgb = _converted(signed, "LAB", "RGB").astype(float) / 255
    black = 1 - rgb.max(axis=1, keepdims=True)
    inks = (1 - rgb - black) / np.maximum(1 - black, 1e-6)
    return (255 * np.concatenate([inks, black], axis=1)).round().astype(np.uint8)


@lru_cache
def cmyk_profile() -> bytes:
    """The bytes of an ICC profile with tables both ways."""
    corners = np.stack(np.meshgrid(*[np.linspace(0, 1, GRID)] * 4, indexing="ij"), -1)
    levels = np.linspace(0, 255, GRID).round().astype(np.uint8)
    lab = np.stack(np.meshgrid(*[levels] * 3, indexing="ij"), -1).reshape(-1, 3)
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    words = b"made-up press\0"
    tags = {
        b"desc": struct.pack(">4sII", b"desc", 0, len(words)) + words + bytes(78),
        b"cprt": struct.pack(">4sI", b"text", 0) + b"public domain\0",
        b"wtpt": white,
        b"A2B0": _lut((4, 3), GRID, _to_lab(corners.reshape(-1, 4))),
        b"B2A0": _lut((3, 4), GRID, _from_lab(lab)),
    }
    place = 128 + 4 + 12 * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        index += struct.pack(">4sII", name, place + len(body), len(data))
        body += data
    light = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + light + bytes(48)
    return head + index + body
