"""Palette as the guide (Saharia et al., "Palette: Image-to-Image Diffusion Models", 2022).

The same network as the refiner's, started from noise alone and run down the whole of its own noise
table. The Diff-2sIR paper guides Palette with Palette: one checkpoint, given as --weights, serves
both. RGB in [-1, 1]; known pixels are clean at every step.

Files: `*_Network.pth` and `*_Network_ema.pth` of the open implementation, or a refiner's
safetensors that was trained on the whole noise table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import Refiner
from d2s_cli.diffusion.sampling import SAMPLERS
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.network import NetworkGuide, NoiseSource
from d2s_cli.guides.pace import Pace
from d2s_cli.runtime import Compute

#: first and last beta of Palette's own sampling table
BETAS = (1e-4, 0.09)
#: no hole has this number, so the guide's noise is never the noise that refines its result
GUIDE_NOISE = -1


class PaletteGuide(NetworkGuide):
    """Palette's sampler.

    Args:
        refiner: the network; `refiner.predict_noise` calls it.
        table: noise table, walked from its noisy end.
        steps: network evaluations; None takes every step of the table.
        sampler: a key of sampling.SAMPLERS.
    """

    def __init__(
        self, refiner: Refiner, table: NoiseTable, steps: int | None, sampler: str
    ) -> None:
        super().__init__(refiner.device)
        self.refiner, self.table, self.steps, self.sampler = refiner, table, steps, sampler
        self.largest = refiner.config.tile
        self.multiple = refiner.config.unet.size_multiple

    @property
    def calls(self) -> int:
        """Network calls for a window."""
        return self.steps or self.table.steps

    @property
    def notes(self) -> tuple[str, ...]:
        return (*super().notes, f"{self.calls} network calls for each window")

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        keys = [(seed, 0, GUIDE_NOISE) for seed in seeds]
        return self.sample(image, hole, seed=keys)

    def sample(
        self,
        image: Tensor,
        hole: Tensor,
        seed: int | Sequence[tuple[int, int, int]] = 0,
        noise: NoiseSource | None = None,
    ) -> Tensor:
        """Fill from noise alone. Arguments and order of the draws as `Refiner.refine`."""
        pace = Pace(self.tell, f"guide {self.name}", self.calls)
        counting = self.refiner.unet.register_forward_hook(lambda *_: pace.step())
        try:
            return self.refiner.refine(
                image,
                hole,
                None,
                steps=self.steps,
                sampler=self.sampler,
                schedule=self.table,
                seed=seed,
                start="noise",
                noise=noise,
                tile=0,
            )
        finally:
            counting.remove()


def load(
    paths: Sequence[Path],
    device: torch.device,
    table_steps: int = 500,
    steps: int | None = None,
    sampler: str = "ddpm",
) -> PaletteGuide:
    """Load a checkpoint.

    Args:
        paths: one file.
        device: where the network runs.
        table_steps: T_g, the length of the noise table: 500 as in the paper's experiment with
            Palette on both sides, 1000 as Palette itself samples.
        steps: network evaluations; None takes every step of the table. This makes it faster, not
            a short table, which would end before everything is noise.
        sampler: ddpm is Palette's; see sampling.SAMPLERS.

    Raises:
        WeightsError: several files, or weights that do not know the noise of the table's end.
        UsageError: settings that make no sense.
    """
    if len(paths) != 1:
        raise WeightsError(f"guide palette is one checkpoint, not {len(paths)}: {_names(paths)}")
    if sampler not in SAMPLERS:
        raise UsageError(f"unknown sampler {sampler!r}", f"one of: {', '.join(SAMPLERS)}")
    table = NoiseTable(table_steps, *BETAS)
    table.grid(table.steps, steps)  # refuses impossible steps before anything is read
    refiner = load_refiner(paths[0], compute=Compute(device))
    if table.at(table.steps) < refiner.config.alpha_bar_min * 0.999:
        raise WeightsError(
            f"{paths[0]} cannot guide: it was not trained on pure noise, which a guide starts from",
            "give Palette's own checkpoint, --guide-weights FILE, or a refiner trained on the whole"
            " noise table",
        )
    return PaletteGuide(refiner, table, steps, sampler)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)
