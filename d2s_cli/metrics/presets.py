"""Recipes of published evaluation codes: one name for every choice that changes a number."""

from __future__ import annotations

from dataclasses import dataclass

from d2s_cli.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """How one published code gets from pictures to numbers.

    Attributes:
        name: as users type it.
        resize: to the network's 299 x 299: "tf1" (bilinear, source at i * in / out), "half-pixel"
            (bilinear, pixel centres, no antialiasing) or "bicubic" (Pillow's, antialiased).
        centred: levels become (x - 128) / 128; else 2 x / 255 - 1.
        ddof: covariances are divided by N - ddof.
        shuffle: seed of the shuffle before the Inception Score's splits; None keeps the order.
        splits: of the Inception Score.
        kid_subsets, kid_size, kid_seed: of the Kernel Inception Distance.
    """

    name: str
    resize: str
    centred: bool
    ddof: int
    shuffle: int | None = None
    splits: int = 10
    kid_subsets: int = 100
    kid_size: int = 1000
    kid_seed: int = 0


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("mat", "tf1", centred=True, ddof=0),
        Preset("tf", "tf1", centred=True, ddof=1, shuffle=2020, kid_seed=2020),
        Preset("pytorch-fid", "half-pixel", centred=False, ddof=1),
        Preset("clean", "bicubic", centred=True, ddof=1),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of that name; UsageError if there is none."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}", f"one of: {', '.join(PRESETS)}")
    return PRESETS[name]
