"""The bundled guide with a network: a first result, corrected (see fill_network.py).

As `--guide neural` it corrects PatchMatch's. For guides whose results are too smooth it corrects
those before they are refined, where the refiner's defaults say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.diffusion.reduced import correct_reduced
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.fill_network import FillConfig, FillNetwork, push_pull
from d2s_cli.guides.network import NetworkGuide, Predict, fit
from d2s_cli.guides.patchmatch import patchmatch_available, patchmatch_guide
from d2s_cli.weights.reading import read_weights

FIRST_GUIDES = ("patchmatch", "given", "none")


class NeuralGuide(NetworkGuide):
    """Corrects PatchMatch's result, a result that it is given, or a smooth fill."""

    largest = 512  # twice the largest that it was trained on; more would also take much memory

    def __init__(self, network: FillNetwork, device: torch.device, first: str) -> None:
        super().__init__(device)
        self.network = network
        if first == "patchmatch" and patchmatch_available():
            self.first = patchmatch_guide()
        self.corrects = self.first is not None or first == "given"

    def _reduced(self, image: Tensor, hole: Tensor, predict: Predict, limit: int) -> Tensor:
        """What it corrects keeps its fine texture where the correction is made at reduced size."""
        candidate = image if self.corrects else push_pull(image, hole)

        def correct(small: Tensor, small_hole: Tensor, given: Tensor) -> Tensor:
            return self._padded(torch.where(small_hole > 0, given, small), small_hole, predict)

        return correct_reduced(correct, image, hole, candidate, limit)

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        smooth = push_pull(image, hole)
        candidate = image if self.corrects else smooth
        filled: Tensor = self.network(candidate, smooth, hole)
        return filled


def load(paths: Sequence[Path], device: torch.device, first: str = "patchmatch") -> NeuralGuide:
    """Load a guide made by `d2s train --model guide`.

    Args:
        paths: its file.
        device: where the network runs.
        first: what it corrects: "patchmatch"; "given", the `candidate` of each call; or "none", the
            smooth fill alone.
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
        upsampling = shape.get("upsampling", "nearest")  # files of before there was a choice
        config = FillConfig(tuple(shape["widths"]), int(shape["blocks"]), upsampling)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{paths[0]} has a header that d2s cannot read: {error}") from error
    with torch.device("meta"):
        network = FillNetwork(config)
    fit(network, tensors, paths[0], device)
    return NeuralGuide(network, device, first)
