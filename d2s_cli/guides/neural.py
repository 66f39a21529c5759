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
from d2s_cli.guides.copies import keep_detail, without_ghosts
from d2s_cli.guides.fill_files import read_fill_networks
from d2s_cli.guides.fill_network import FillNetwork
from d2s_cli.guides.network import NetworkGuide, Predict
from d2s_cli.guides.patchmatch import patchmatch_available, patchmatch_guide
from d2s_cli.guides.smooth_fill import push_pull, smooth_fill
from d2s_cli.runtime import Compute, pick

FIRST_GUIDES = ("patchmatch", "given", "none")


class NeuralGuide(NetworkGuide):
    """Corrects PatchMatch's result, a result that it is given, or a smooth fill."""

    largest = 512  # twice the largest that it was trained on; more would also take much memory

    def __init__(
        self,
        network: FillNetwork,
        compute: Compute,
        first: str,
        smoother: FillNetwork | None = None,
        copies: bool = True,
    ) -> None:
        super().__init__(compute.device)
        self.network, self.smoother, self.compute = network, smoother, compute
        if first == "patchmatch" and patchmatch_available():
            self.first = patchmatch_guide()
        self.copies = copies
        self.corrects = self.first is not None or first == "given"

    def _reduced(self, image: Tensor, hole: Tensor, predict: Predict, limit: int) -> Tensor:
        """What it corrects keeps its fine texture where the correction is made at reduced size."""
        # a smooth fill has nothing fine to keep: colours will do, edges come with the correction
        candidate = image if self.corrects else push_pull(image, hole)

        def correct(small: Tensor, small_hole: Tensor, given: Tensor) -> Tensor:
            return self._padded(torch.where(small_hole > 0, given, small), small_hole, predict)

        return correct_reduced(correct, image, hole, candidate, limit)

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        with self.compute.network_precision():
            smooth = smooth_fill(image, hole, self.smoother)
            candidate = image if self.corrects else smooth
            filled: Tensor = self.network(candidate, smooth, hole)
        if not (self.copies and self.corrects):
            return filled
        kept = without_ghosts(filled.float(), candidate, hole)
        return keep_detail(kept, candidate, hole)


def load(
    paths: Sequence[Path],
    device: torch.device,
    first: str = "patchmatch",
    smoother_alone: bool = False,
    precision: str = "fp32",
    copies: bool = True,
) -> NeuralGuide:
    """Load a guide made by `d2s train --model guide`.

    Args:
        paths: its file.
        device: where the network runs.
        first: what it corrects: "patchmatch"; "given", the `candidate` of each call; or "none", the
            smooth fill alone.
        smoother_alone: correct with the network that makes the file's smooth fills, and no other.
        precision: of the networks, see runtime.pick.
        copies: first results are copied texture (copies.py); not for networks for smooth fills.

    Raises:
        UsageError: there is no such first guide.
        WeightsError: the file cannot be used, or has no such network.
    """
    if first not in FIRST_GUIDES:
        raise UsageError(f"no first guide {first!r}", f"one of: {', '.join(FIRST_GUIDES)}")
    if len(paths) != 1:
        raise WeightsError(f"guide neural is one file, not {len(paths)}")
    compute = pick(str(device), precision)
    held = read_fill_networks(paths[0], device)
    if not smoother_alone:
        return NeuralGuide(held.network, compute, first, held.smoother, copies)
    if held.smoother is None:
        raise WeightsError(
            f"{paths[0]} has no network for smooth fills",
            "one made with d2s train --model guide --smoother has it",
        )
    return NeuralGuide(held.smoother, compute, first, copies=False)
