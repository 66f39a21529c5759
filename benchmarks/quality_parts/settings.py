"""Ways to refine, as typed on refine_quality.py's command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from d2s_cli.diffusion.sampling import SAMPLERS
from d2s_cli.diffusion.schedule import SPACINGS, NoiseTable
from d2s_cli.errors import D2SError


@dataclass(frozen=True)
class Setting:
    """One way to refine.

    Attributes:
        text: as given on the command line; names the setting in the reports.
        arguments: for Refiner.refine.
        gain: adapts T_k, down to 0, to the texture that a result lacks; `tk` is then its largest.
        sharpen: bring back soft results' detail before (images.sharpening).
        correct: have the bundled network correct them before (guides.neural).
    """

    text: str
    arguments: dict[str, Any]
    gain: float | None = None
    sharpen: bool = False
    correct: bool = False


def parse_table(text: str) -> NoiseTable:
    """ "T", or "T:BETA_START:BETA_END"."""
    steps, *betas = text.split(":")
    if len(betas) not in (0, 2):
        raise ValueError("a table is T or T:BETA_START:BETA_END")
    return NoiseTable(int(steps), *(float(beta) for beta in betas))


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return parse


SETTING_KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "tk": ("tk", int),
    "steps": ("steps", int),
    "sampler": ("sampler", _one_of(list(SAMPLERS))),
    "inject": ("inject", lambda text: bool(int(text))),
    "spacing": ("spacing", _one_of(SPACINGS)),
    "table": ("schedule", parse_table),
    "gain": ("gain", float),
    "sharpen": ("sharpen", lambda text: bool(int(text))),
    "correct": ("correct", lambda text: bool(int(text))),
}


def parse_setting(text: str) -> Setting:
    """ "tk=30,steps=5,sampler=dpmpp-sde" to arguments of Refiner.refine; checks the step grid."""
    arguments: dict[str, Any] = {}
    try:
        for part in filter(None, text.replace(" ", "").split(",")):
            key, _, value = part.partition("=")
            if key not in SETTING_KEYS:
                raise ValueError(f"unknown setting {key!r}; one of {', '.join(SETTING_KEYS)}")
            name, convert = SETTING_KEYS[key]
            arguments[name] = convert(value)
        table = arguments.get("schedule", NoiseTable())
        if tk := arguments.get("tk", 200):
            table.grid(tk, arguments.get("steps"), arguments.get("spacing", "time"))
    except (ValueError, D2SError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    gain = arguments.pop("gain", None)
    sharpen, correct = (arguments.pop(name, False) for name in ("sharpen", "correct"))
    return Setting(text, arguments, gain, sharpen, correct)
