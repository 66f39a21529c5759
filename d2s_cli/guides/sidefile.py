"""Side files: how a model file of somebody else takes its pictures, in a few lines of TOML.

MODEL.onnx has MODEL.onnx.toml beside it. Nothing in a model file says which range its numbers have
or which side of a mask is the hole, and a wrong guess gives a plausible wrong picture, so that the
four keys that decide it have no defaults. docs/plugins.md explains every key.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2s_cli.errors import WeightsError

#: ranges of numbers, by how they are written
RANGES = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
#: what a model may be given, in this order; a "+" joins channels into one tensor
INPUTS = (["image", "mask"], ["mask", "image"], ["image+mask"], ["mask+image"])
#: the values that a key may have, for keys with few
CHOICES: dict[str, tuple[Any, ...]] = {
    "inputs": INPUTS,
    "input_range": tuple(RANGES),
    "output_range": tuple(RANGES),
    "mask_range": ("0..1", "0..255"),
    "hole": (0, 1),
    "zeroed": (True, False),
    "channels": ("RGB", "BGR"),
    "layout": ("NCHW", "NHWC"),
}
#: the least value of keys that are whole numbers
AT_LEAST = {"multiple": 1, "size": 0, "output": 0}
REQUIRED = ("inputs", "input_range", "output_range", "hole")
EXAMPLE = """\
inputs = ["image", "mask"]
input_range = "0..1"
output_range = "0..1"
hole = 1"""


@dataclass(frozen=True)
class SideFile:
    """What a side file says.

    Attributes:
        inputs: one of INPUTS.
        input_range, output_range: of the pictures, a key of RANGES.
        hole: 1 if the mask is high in the hole, 0 if it is high where pixels are known.
        mask_range: numbers of the mask.
        zeroed: the picture is 0 in the hole; if not, it is middle grey there. What was in the hole
            is never shown.
        channels: order of the colours, in and out.
        layout: order of the axes, in and out.
        multiple: height and width must be multiples of this.
        size: the only height and width that the model takes; 0 if it takes any.
        output: which of the model's outputs is the picture, from 0.
        licence: of the model, for people.
    """

    inputs: list[str]
    input_range: str
    output_range: str
    hole: int
    mask_range: str = "0..1"
    zeroed: bool = True
    channels: str = "RGB"
    layout: str = "NCHW"
    multiple: int = 8
    size: int = 0
    output: int = 0
    licence: str = ""

    def tensors(self, image: Tensor, hole: Tensor) -> list[Tensor]:
        """What the model gets, in its order.

        Args:
            image: N x 3 x H x W, [-1, 1], zeros in the hole.
            hole: N x 1 x H x W, 0 or 1.
        """
        low, high = RANGES[self.input_range]
        scaled = (image + 1) * ((high - low) / 2) + low
        if self.zeroed:
            scaled = torch.where(hole > 0, 0.0, scaled)
        if self.channels == "BGR":
            scaled = scaled.flip(1)
        mask = (hole if self.hole else 1 - hole) * RANGES[self.mask_range][1]
        parts = {"image": scaled, "mask": mask}
        given = [torch.cat([parts[n] for n in i.split("+")], 1) for i in self.inputs]
        if self.layout == "NHWC":
            given = [x.permute(0, 2, 3, 1) for x in given]
        return [x.contiguous() for x in given]

    def picture(self, output: Tensor) -> Tensor:
        """The model's output as N x 3 x H x W in [-1, 1]."""
        if self.layout == "NHWC":
            output = output.permute(0, 3, 1, 2)
        if self.channels == "BGR":
            output = output.flip(1)
        low, high = RANGES[self.output_range]
        return (output.float() - low) * (2 / (high - low)) - 1


def side_path(model: Path) -> Path:
    """MODEL.onnx.toml of MODEL.onnx."""
    return model.with_name(model.name + ".toml")


def read_side_file(model: Path) -> SideFile:
    """What the side file of a model says.

    Raises:
        WeightsError: missing, unreadable, or with a key or value that means nothing.
    """
    path = side_path(model)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is missing: it says how {model.name} takes its pictures",
            f"for example (docs/plugins.md has every key):\n{EXAMPLE}",
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    _check(path, table)
    return SideFile(**table)


def _check(path: Path, table: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(SideFile)]
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise WeightsError(f"{path}: there is no key {key!r}", hint)
        if problem := _problem(key, value):
            raise WeightsError(f"{path}: {key} must be {problem}, not {_toml(value)}")
    if missing := [key for key in REQUIRED if key not in table]:
        raise WeightsError(f"{path} does not say: {', '.join(missing)}", f"for example:\n{EXAMPLE}")


def _problem(key: str, value: Any) -> str:
    """What the value should have been; empty if it is fine."""
    if key in CHOICES:
        # 1 == True to Python, and not to people
        if any(type(value) is type(choice) and value == choice for choice in CHOICES[key]):
            return ""
        return f"one of {', '.join(map(_toml, CHOICES[key]))}"
    if key in AT_LEAST:
        fits = type(value) is int and value >= AT_LEAST[key]
        return "" if fits else f"a whole number from {AT_LEAST[key]}"
    return "" if isinstance(value, str) else "text"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("'", '"') if isinstance(value, list) else repr(value)
