"""The Inception network of FID: Inception v3 as TensorFlow published it in 2015.

It differs from the ImageNet one of today in its pooling and has 1008 classes (Szegedy et al., 2015;
Heusel et al., 2017). Names of tensors are those of `pt_inception-2015-12-05-6726825d.pth`, which
loads unchanged; the TorchScript file `inception-2015-12-05.pt` holds the same numbers under
TensorFlow's names, which are translated here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from d2s_cli.errors import WeightsError
from d2s_cli.metrics.presets import Preset
from d2s_cli.runtime import channels_last
from d2s_cli.weights.reading import read_weights

#: side of what the network sees
SIDE = 299
FEATURES, CLASSES = 2048, 1008
BN_EPS = 1e-3


class _Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Any, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.conv(x))
        return F.relu(normed, inplace=True)


def _along(length: int, outputs: int, inputs: int, down: bool) -> _Conv:
    """A convolution along one axis that keeps the size."""
    kernel, padding = (length, 1), (length // 2, 0)
    if not down:
        kernel, padding = kernel[::-1], padding[::-1]
    return _Conv(inputs, outputs, kernel, padding=padding)


def _average(x: Tensor) -> Tensor:
    """Mean of 3 x 3 neighbours; outside the picture there are none to count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class _BlockA(nn.Module):
    """35 x 35."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 64, 1)
        self.branch5x5_1 = _Conv(inputs, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class _BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = _Conv(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(288, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _halved(x)], 1)


class _BlockC(nn.Module):
    """17 x 17."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(768, 192, 1)
        self.branch7x7_1 = _Conv(768, width, 1)
        self.branch7x7_2 = _along(7, width, width, down=False)
        self.branch7x7_3 = _along(7, 192, width, down=True)
        self.branch7x7dbl_1 = _Conv(768, width, 1)
        self.branch7x7dbl_2 = _along(7, width, width, down=True)
        self.branch7x7dbl_3 = _along(7, width, width, down=False)
        self.branch7x7dbl_4 = _along(7, width, width, down=True)
        self.branch7x7dbl_5 = _along(7, 192, width, down=False)
        self.branch_pool = _Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class _BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(768, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(768, 192, 1)
        self.branch7x7x3_2 = _along(7, 192, 192, down=False)
        self.branch7x7x3_3 = _along(7, 192, 192, down=True)
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), _halved(x)], 1)


class _BlockE(nn.Module):
    """8 x 8. The last one takes the largest neighbour where all others average."""

    def __init__(self, inputs: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.branch1x1 = _Conv(inputs, 320, 1)
        self.branch3x3_1 = _Conv(inputs, 384, 1)
        self.branch3x3_2a = _along(3, 384, 384, down=False)
        self.branch3x3_2b = _along(3, 384, 384, down=True)
        self.branch3x3dbl_1 = _Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _along(3, 384, 384, down=False)
        self.branch3x3dbl_3b = _along(3, 384, 384, down=True)
        self.branch_pool = _Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        parts.append(self.branch_pool(_largest(x) if self.last else _average(x)))
        return torch.cat(parts, 1)


class FIDInception(nn.Module):
    """Pictures N x 3 x 299 x 299, scaled as the preset says, to N x 2048 features.

    `fc` gives the 1008 classes' logits; published Inception Scores use its weight without its bias.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB()
        self.Mixed_6b = _BlockC(128)
        self.Mixed_6c = _BlockC(160)
        self.Mixed_6d = _BlockC(160)
        self.Mixed_6e = _BlockC(192)
        self.Mixed_7a = _BlockD()
        self.Mixed_7b = _BlockE(1280, last=False)
        self.Mixed_7c = _BlockE(2048, last=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(x)))
        x = _halved(x)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """N x 2048 features to N x 1008 logits without the bias."""
        weight = self.fc.weight.detach().cpu().numpy()
        return np.asarray(features @ weight.T, np.float32)


def load_inception(path: Path, device: torch.device | None = None) -> FIDInception:
    """The network with the numbers of a published file.

    Args:
        path: `pt_inception-2015-12-05-6726825d.pth`, or the TorchScript `inception-2015-12-05.pt`,
            of which only the numbers are read.
        device: where it runs.

    Raises:
        WeightsError: unreadable, or another network.
    """
    tensors = {pth_name(key): value for key, value in read_weights(path)[0].items()}
    with torch.device("meta"):
        network = FIDInception()
    wanted = network.state_dict()
    state = {k: v for k, v in tensors.items() if k in wanted}
    for key, blank in wanted.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros((), dtype=torch.long))
        elif key.endswith("bn.weight"):  # TensorFlow's network has none, which means 1
            state.setdefault(key, torch.ones(blank.shape))
    _refuse_other_network(path, state, wanted)
    network.load_state_dict(state, assign=True)
    network.to(device or torch.device("cpu"), torch.float32).eval().requires_grad_(False)
    channels_last(network)
    return network


def _refuse_other_network(
    path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    missing = [key for key in wanted if key not in state]
    other = [key for key in state if state[key].shape != wanted[key].shape]
    if missing or other:
        what = f"{other[0]} of another shape" if other else f"no {missing[0]}"
        raise WeightsError(
            f"{path} is not the Inception network of FID: {what}",
            "wanted: pt_inception-2015-12-05-6726825d.pth (torchvision's inception_v3 is another"
            " network)",
        )


_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
#: TensorFlow's towers in each kind of block, and what follows them if they have one more number
_TOWERS = {
    "A": {"": "1x1", "tower": "5x5_", "tower_1": "3x3dbl_"},
    "B": {"": "3x3", "tower": "3x3dbl_"},
    "C": {"": "1x1", "tower": "7x7_", "tower_1": "7x7dbl_"},
    "D": {"tower": "3x3_", "tower_1": "7x7x3_"},
}
_LAST = {
    "conv": "1x1",
    "tower_conv": "3x3_1",
    "tower_mixed_conv": "3x3_2a",
    "tower_mixed_conv_1": "3x3_2b",
    "tower_1_conv": "3x3dbl_1",
    "tower_1_conv_1": "3x3dbl_2",
    "tower_1_mixed_conv": "3x3dbl_3a",
    "tower_1_mixed_conv_1": "3x3dbl_3b",
}
_NUMBERS = {
    "weight": "conv.weight",
    "beta": "bn.bias",
    "mean": "bn.running_mean",
    "var": "bn.running_var",
}


def pth_name(name: str) -> str:
    """TensorFlow's name of a tensor ("layers.mixed_1.tower.conv_1.weight") as the .pth file has it;
    other names come back as they are."""
    if name.startswith("output."):
        return name.replace("output", "fc")
    match = re.fullmatch(
        r"layers\.(?:(conv(?:_\d+)?)|mixed(?:_(\d+))?\.(.+))\.(weight|beta|mean|var)", name
    )
    if match is None:
        return name
    stem, number, inner, kind = match.groups()
    if stem:
        place = f"Conv2d_{_STEM[_number(stem)]}"
    else:
        block = _BLOCKS[int(number or 0)]
        place = f"Mixed_{block}.branch{_branch(block, inner.replace('.', '_'))}"
    return f"{place}.{_NUMBERS[kind]}"


def _number(name: str) -> int:
    """The N of conv_N, 0 for conv."""
    return int(name.rpartition("conv")[2].lstrip("_") or 0)


def _branch(block: str, inner: str) -> str:
    if inner == "tower_2_conv":
        return "_pool"
    if block in ("7b", "7c"):
        return _LAST.get(inner, inner)
    kind = {"5": "A", "6": "C", "7": "D"}[block[0]] if block != "6a" else "B"
    tower = inner.rpartition("conv")[0].rstrip("_")
    branch = _TOWERS[kind].get(tower, tower)
    return f"{branch}{_number(inner) + 1}" if tower else branch


def prepare(picture: NDArray[np.uint8], preset: Preset) -> Tensor:
    """A picture H x W x 3 as the network sees it under a preset: float32 3 x 299 x 299."""
    resized = {"tf1": _resize_tf1, "half-pixel": _resize_half_pixel, "bicubic": _resize_bicubic}
    levels = resized[preset.resize](picture)
    return (levels - 128) / 128 if preset.centred else 2 * levels - 1


def _planes(picture: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()


def _resize_tf1(picture: NDArray[np.uint8]) -> Tensor:
    """TensorFlow 1's bilinear: output pixel i reads input i * in / out. Levels 0 to 255."""
    planes = _planes(picture)
    return _lerp(_lerp(planes, 1), 2)


def _lerp(planes: Tensor, axis: int) -> Tensor:
    size = planes.shape[axis]
    at = torch.arange(SIDE, dtype=torch.float32) * (size / SIDE)
    low = at.floor().long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
    first = planes.index_select(axis, low)
    return first + (planes.index_select(axis, high) - first) * share


def _resize_half_pixel(picture: NDArray[np.uint8]) -> Tensor:
    """PyTorch's bilinear without antialiasing. Levels 0 to 1."""
    planes = _planes(picture)[None] / 255
    return F.interpolate(planes, (SIDE, SIDE), mode="bilinear", align_corners=False)[0]


def _resize_bicubic(picture: NDArray[np.uint8]) -> Tensor:
    """Pillow's antialiased bicubic, channel by channel in float. Levels 0 to 255."""
    planes = [
        np.asarray(
            Image.fromarray(picture[..., c].astype(np.float32)).resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC
            )
        )
        for c in range(3)
    ]
    return torch.from_numpy(np.stack(planes).clip(0, 255))
