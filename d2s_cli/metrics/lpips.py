"""LPIPS: distance of two pictures in the features of a trained network (Zhang et al., 2018).

Version 0.1 with its calibrated weights. The numbers come in two published files, the linear heads
(`alex.pth`, `vgg.pth`: "lin0.model.1.weight", ...) and the trunk (AlexNet's or VGG-16's ImageNet
weights: "features.0.weight", ...), or both in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2s_cli.errors import InputError, WeightsError
from d2s_cli.weights.reading import read_weights

#: colours of the pictures that the trunks were trained on, for inputs in [-1, 1]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
#: added to the length of a feature vector before it is divided by it
TINY = 1e-10
_SLICE = re.compile(r"^net\.slice\d+\.")


@dataclass(frozen=True)
class Trunk:
    """Shape of a network.

    Attributes:
        stages: numbers of the convolutions before each compared layer; a stage's output is that of
            its last one, after ReLU.
        stride, padding: by convolution number where not 1 and 1.
        pooled: stages before which neighbours are pooled, over `pool` pixels, every 2nd.
        pool: pixels.
        smallest: side of the smallest picture that leaves something at every stage.
    """

    stages: tuple[tuple[int, ...], ...]
    stride: dict[int, int]
    padding: dict[int, int]
    pooled: tuple[int, ...]
    pool: int
    smallest: int


TRUNKS = {
    "alex": Trunk(((0,), (3,), (6,), (8,), (10,)), {0: 4}, {0: 2, 3: 2}, (1, 2), 3, 31),
    "vgg": Trunk(
        ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), {}, {}, (1, 2, 3, 4), 2, 16
    ),
}


class LPIPS(nn.Module):
    """Distance of pictures N x 3 x H x W in [-1, 1].

    Args:
        net: a key of TRUNKS.
        tensors: heads and trunk, by their published names.

    Raises:
        WeightsError: one of them is missing, or of another shape.
    """

    def __init__(self, net: str, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.net, self.trunk = net, TRUNKS[net]
        for stage, numbers in enumerate(self.trunk.stages):
            for number in numbers:
                for kind in ("weight", "bias"):
                    key = f"features.{number}.{kind}"
                    self._keep(key, tensors)
            self._keep(f"lin{stage}.model.1.weight", tensors)
            head, last = self._get(f"lin{stage}.model.1.weight"), f"features.{numbers[-1]}.bias"
            if head.shape != (1, len(self._get(last)), 1, 1):
                raise WeightsError(
                    f"heads and trunk do not belong together: lin{stage} has {head.shape[1]}"
                    f" channels, the trunk {len(self._get(last))}",
                    "alex.pth belongs to alexnet-owt-7be5be79.pth, vgg.pth to vgg16-397923af.pth",
                )
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(1, 3, 1, 1))

    def _keep(self, key: str, tensors: dict[str, Tensor]) -> None:
        if key not in tensors:
            part = "linear heads" if key.startswith("lin") else "trunk"
            raise WeightsError(f"the weights of lpips-{self.net} lack their {part}: no {key}")
        self.register_buffer(key.replace(".", "_"), tensors[key].float())

    def _get(self, key: str) -> Tensor:
        tensor = self.get_buffer(key.replace(".", "_"))
        assert isinstance(tensor, Tensor)
        return tensor

    def stages(self, pictures: Tensor) -> list[Tensor]:
        """Unit-length features at each compared layer."""
        x = (pictures - self.get_buffer("shift")) / self.get_buffer("scale")
        outputs = []
        for stage, numbers in enumerate(self.trunk.stages):
            if stage in self.trunk.pooled:
                x = F.max_pool2d(x, self.trunk.pool, stride=2)
            for number in numbers:
                weight, bias = (
                    self._get(f"features.{number}.{kind}") for kind in ("weight", "bias")
                )
                stride = self.trunk.stride.get(number, 1)
                x = F.relu(F.conv2d(x, weight, bias, stride, self.trunk.padding.get(number, 1)))
            outputs.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + TINY))
        return outputs

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """N distances.

        Raises:
            InputError: pictures too small for the network.
        """
        if min(a.shape[2:]) < self.trunk.smallest:
            side = self.trunk.smallest
            raise InputError(f"LPIPS ({self.net}) needs pictures of at least {side}x{side} pixels")
        total = torch.zeros(len(a), device=a.device)
        for stage, (x, y) in enumerate(zip(self.stages(a), self.stages(b), strict=True)):
            head = self._get(f"lin{stage}.model.1.weight")
            total += F.conv2d((x - y).square(), head).mean(dim=(1, 2, 3))
        return total


def read_parts(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Heads and trunk in files, by their published names; the rest of a trunk is left out.

    A whole module of the `lpips` package has its trunk as "net.slice1.0.weight", with the same
    numbers of layers.

    Raises:
        WeightsError: unreadable.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        for key, value in read_weights(path)[0].items():
            name = _SLICE.sub("features.", key)
            if name.startswith(("features.", "lin")):
                found[name] = value
    return found


def lacking(tensors: Mapping[str, Tensor]) -> list[str]:
    """Which of "heads" and "trunk" are not among the tensors."""
    starts = {"heads": "lin0.", "trunk": "features."}
    return [part for part, start in starts.items() if not any(k.startswith(start) for k in tensors)]


def load_lpips(net: str, tensors: dict[str, Tensor], device: torch.device | None = None) -> LPIPS:
    """The distance, ready to run.

    Args:
        net: "alex" or "vgg".
        tensors: heads and trunk, see `read_parts`.
        device: where it runs.

    Raises:
        WeightsError: not what is needed.
    """
    return LPIPS(net, tensors).to(device or torch.device("cpu")).eval().requires_grad_(False)
