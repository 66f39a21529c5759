"""The bundled guide with a network: PatchMatch's result, corrected (see fill_network.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.fill_network import FillConfig, FillNetwork, push_pull
from d2s_cli.guides.network import NetworkGuide, fit
from d2s_cli.guides.patchmatch import patchmatch_available, patchmatch_guide
from d2s_cli.weights.reading import read_weights

FIRST_GUIDES = ("patchmatch", "none")


class NeuralGuide(NetworkGuide):
    """Corrects PatchMatch's result, or a smooth fill where there is none."""

    def __init__(self, network: FillNetwork, device: torch.device, first: str) -> None:
        super().__init__(device)
        self.network = network
        if first == "patchmatch" and patchmatch_available():
            self.first = patchmatch_guide()

    def predict(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        smooth = push_pull(image, hole)
        candidate = smooth if self.first is None else image
        filled: Tensor = self.network(candidate, smooth, hole)
        return filled


def load(paths: Sequence[Path], device: torch.device, first: str = "patchmatch") -> NeuralGuide:
    """Load a guide made by `d2s train --model guide`.

    Args:
        paths: its file.
        device: where the network runs.
        first: what it corrects: "patchmatch", or "none" for the smooth fill alone.
    """
    if first not in FIRST_GUIDES:
        raise UsageError(f"no first guide {first!r}", f"one of: {', '.join(FIRST_GUIDES)}")
    if len(paths) != 1:
        raise WeightsError(f"guide neural is one file, not {len(paths)}")
    tensors, header = read_weights(paths[0])
    if header.get("architecture") != "fill":
        raise WeightsError(
            f"{paths[0]} is no guide made by d2s", "d2s train --model guide makes one"
        )
    try:
        shape = header["network"]
        config = FillConfig(tuple(shape["widths"]), int(shape["blocks"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{paths[0]} has a header that d2s cannot read: {error}") from error
    with torch.device("meta"):
        network = FillNetwork(config)
    fit(network, tensors, paths[0], device)
    return NeuralGuide(network, device, first)
