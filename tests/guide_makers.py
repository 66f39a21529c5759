"""Guides that others might bring: model files, programs, packages, and one that breaks promises.

The models give twice the picture's mean colour, without its first channel, plus a share of the
mask, so that their results show what they were given.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2s_cli.guides.contract import Guide

#: starts quickly: no site packages
PYTHON = f'"{sys.executable}" -I -S'
#: of the mask in the result
SHARE = 0.25
SCALE = (0.0, 2.0, 2.0)
SIDE_FILE = {"inputs": ["image", "mask"], "input_range": "0..1", "output_range": "0..1", "hole": 1}


def write_side_file(model: Path, **changes: Any) -> Path:
    """SIDE_FILE with other or further keys; None leaves one out."""
    lines = []
    for key, value in (SIDE_FILE | changes).items():
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else repr(value)
            lines.append(f"{key} = {text}".replace("'", '"'))
    path = model.with_name(model.name + ".toml")
    path.write_text("\n".join(lines) + "\n")
    return path


class Probe(nn.Module):
    """The model in torch.

    Args:
        order: as `inputs` of a side file.
        channels_last: N x H x W x C.
        several: give the picture as the second of two.
        out: the result is multiplied by this.
    """

    def __init__(
        self, order: list[str], channels_last: bool = False, several: bool = False, out: float = 1
    ) -> None:
        super().__init__()
        self.mask_first = order[0].startswith("mask")
        self.channels_last, self.several, self.out = channels_last, several, float(out)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        image, mask = (b, a) if self.mask_first else (a, b)
        if self.channels_last:
            image, mask = image.permute(0, 3, 1, 2), mask.permute(0, 3, 1, 2)
        scale = torch.tensor([0.0, 2.0, 2.0], device=image.device)[:, None, None]
        picture = (image.mean((2, 3), keepdim=True) * scale + 0.25 * mask) * self.out
        if self.channels_last:
            picture = picture.permute(0, 2, 3, 1)
        return (mask, picture) if self.several else (picture, mask)


class Joined(nn.Module):
    """The model with one input of four channels and one output."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe

    def forward(self, x: Tensor) -> Tensor:
        if self.probe.mask_first:
            return self.probe(x[:, :1], x[:, 1:])[0]
        return self.probe(x[:, :3], x[:, 3:])[0]


def save_script(path: Path, order: list[str], **options: Any) -> Path:
    """The model as TorchScript."""
    module: nn.Module = Probe(order, **options)
    if len(order) == 1:
        module = Joined(module)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


def save_onnx(path: Path, order: list[str], size: int = 0, out: float = 1, **kinds: Any) -> Path:
    """The model as ONNX.

    Args:
        size: the only height and width; 0 takes any.
        out: the result is multiplied by this.
        kinds: "kind" is the number format of its inputs, an ONNX element type.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    kind = kinds.get("kind", TensorProto.FLOAT)
    sides: list[Any] = [size, size] if size else ["height", "width"]
    channels = {"image": 3, "mask": 1, "image+mask": 4, "mask+image": 4}
    inputs = [helper.make_tensor_value_info(n, kind, [1, channels[n], *sides]) for n in order]
    nodes = [helper.make_node("Cast", [n], [f"float {n}"], to=TensorProto.FLOAT) for n in order]
    names = {"image": "float image", "mask": "float mask"}
    constants = {"scale": [s * out for s in SCALE], "share": [SHARE * out]}
    tensors = [
        helper.make_tensor(n, TensorProto.FLOAT, [1, len(v), 1, 1], v) for n, v in constants.items()
    ]
    if len(order) == 1:
        parts = order[0].split("+")
        counts = helper.make_tensor("counts", TensorProto.INT64, [2], [channels[p] for p in parts])
        tensors.append(counts)
        names = {part: part for part in parts}
        nodes.append(helper.make_node("Split", [f"float {order[0]}", "counts"], parts, axis=1))
    nodes += [
        helper.make_node("ReduceMean", [names["image"]], ["mean"], axes=[2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["colour"]),
        helper.make_node("Mul", [names["mask"], "share"], ["added"]),
        helper.make_node("Add", ["colour", "added"], ["picture"]),
    ]
    result = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, *sides])
    graph = helper.make_graph(nodes, "probe", inputs, [result], tensors)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def program(folder: Path, code: str) -> Path:
    path = folder / "tool.py"
    path.write_text("import sys\nimage, mask, output, *more = sys.argv[1:]\n" + code)
    return path


def install(folder: Path, package: str, entries: dict[str, str]) -> None:
    """What pip leaves behind, as far as it matters here."""
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("[d2s.guides]\n" + "\n".join(lines) + "\n")


class Crooked(Guide):
    """Breaks one promise."""

    name = "crooked"

    def __init__(self, fault: str) -> None:
        self.fault, self.calls = fault, 0

    def fill(self, image: torch.Tensor, hole: torch.Tensor, seed: int) -> torch.Tensor:
        self.calls += 1
        out = torch.full_like(image, 0.3)
        if self.fault == "nan":
            out[..., -1] = float("nan")
        if self.fault == "even" and image.shape[-1] % 2:
            raise RuntimeError("odd width")
        if self.fault == "small":
            out = out[..., 1:]
        if self.fault == "restless":
            out += 0.02 * self.calls
        if self.fault == "batch":
            out += 0.1 * len(image)
        if self.fault == "dark":
            out -= 1.3
        return out

    def __call__(self, image: torch.Tensor, hole: torch.Tensor, seed: int = 0) -> torch.Tensor:
        if self.fault == "peeps":
            return image.clone()
        out = super().__call__(image, hole, seed)
        if self.fault == "spills":
            out[..., 0, 0] = 0.123
        if self.fault == "writes":
            image += 0.01
        return out
