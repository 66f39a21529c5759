"""The refinement model: condition, prediction, injection of the guide, and refining.

Tensors are N x 3 x H x W, RGB, [-1, 1], float32; `hole` is N x 1 x H x W, 1 where pixels are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from d2s_cli.diffusion import sampling
from d2s_cli.diffusion.graphs import GraphedCalls
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.tiles import TiledDenoise, tile_boxes
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.runtime import Compute, to_device

PREDICTIONS = ("eps", "v")
STARTS = ("middle", "start", "noise")

#: (seed, sample number, hole number): all that the noise of one hole depends on
SeedKey = tuple[int, int, int]


@dataclass(frozen=True)
class RefinerConfig:
    """What a weights file says about itself, in its header.

    Attributes:
        unet: shape of the network.
        prediction: what the network's output is: "eps", or "v" = a eps - s x_0.
        alpha_bar_min: lowest noise level that it was trained on (0 for the whole chain).
        tile: side in pixels of the largest window that it works on in one piece.
        defaults: measured settings by guide name, as recipe.FALLBACK has them.
        about: provenance for people (images seen, data, date).
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    prediction: str = "eps"
    alpha_bar_min: float = 0.0
    tile: int = 256
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise WeightsError(f"unknown prediction {self.prediction!r} in the weights' header")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RefinerConfig:
        """Raises WeightsError for fields that this version does not know."""
        try:
            fields = dict(data)
            unet = fields.pop("unet", {})
            shape: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in unet.items()
            }
            return cls(unet=UNetConfig(**shape), **fields)
        except TypeError as error:
            raise WeightsError(
                f"the weights' header has a field that this d2s does not know: {error}",
                "a newer d2s may read it",
            ) from error


class Refiner:
    """A UNet with what is needed to refine with it. Made by `load_refiner`."""

    def __init__(
        self, unet: UNet, config: RefinerConfig, compute: Compute | None = None, name: str = ""
    ) -> None:
        self.unet = unet
        self.config = config
        self.compute = compute or Compute(torch.device("cpu"))
        self.name = name
        self._plain = GraphedCalls(self._network)
        self._injected = GraphedCalls(self._network_injected)

    def _network(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        with self.compute.network_precision():
            prediction: Tensor = self.unet(x, alpha_bar)
        return prediction.float()

    def _network_injected(
        self, condition: Tensor, x_t: Tensor, guide_t: Tensor, alpha_bar: Tensor
    ) -> Tensor:
        """Eq. 15 to 17: half of the deep features, before and after the middle block, from the
        guide at the same noise level; both encoder runs as one doubled batch."""
        with self.compute.network_precision():
            unet, embedding = self.unet, self.unet.embed(alpha_bar)
            # one level for the whole batch serves both halves as it is
            twice = embedding if len(embedding) == 1 else torch.cat([embedding, embedding])
            doubled = torch.cat(
                [torch.cat([condition, x_t], 1), torch.cat([condition, guide_t], 1)]
            )
            h, skips = unet.encode(doubled, twice)
            h_state, h_guide = h.chunk(2)
            out = unet.middle(torch.cat([_first_half_from(h_state, h_guide), h_guide]), twice)
            mixed = _first_half_from(*out.chunk(2))
            return unet.decode(mixed, [skip.chunk(2)[0] for skip in skips], embedding).float()

    def predict(
        self, condition: Tensor, x_t: Tensor, alpha_bar: Tensor, guide_t: Tensor | None = None
    ) -> Tensor:
        """The network's own output (`config.prediction`) for any height and width.

        Args:
            condition: x_m, known pixels with noise in the hole (eq. 11), N x 3 x H x W.
            x_t: noisy state, known pixels clean.
            alpha_bar: noise levels, shape (N,), or (1,) for one that all share.
            guide_t: the guide at the same noise levels, to inject (eq. 15 to 17).
        """
        height, width = x_t.shape[-2:]
        multiple = self.config.unet.size_multiple
        pad = (0, -width % multiple, 0, -height % multiple)
        if any(pad):
            condition, x_t = _extend(condition, pad), _extend(x_t, pad)
            guide_t = None if guide_t is None else _extend(guide_t, pad)
        if guide_t is None:
            out = self._plain(torch.cat([condition, x_t], dim=1), alpha_bar)
        else:
            out = self._injected(condition, x_t, guide_t, alpha_bar)
        return out[..., :height, :width]

    def predict_noise(
        self, condition: Tensor, x_t: Tensor, alpha_bar: Tensor, guide_t: Tensor | None = None
    ) -> Tensor:
        """eps_hat, N x 3 x H x W. Arguments as `predict`; eq. 15 to 17 when guide_t is given."""
        with torch.no_grad():
            condition, x_t, alpha_bar = (t.to(self.device) for t in (condition, x_t, alpha_bar))
            guide_t = None if guide_t is None else guide_t.to(self.device)
            out = self.predict(condition, x_t, alpha_bar, guide_t)
        if self.config.prediction == "eps":
            return out
        a, s = signal_and_noise(alpha_bar)
        return s * x_t + a * out

    def predict_x0(
        self, condition: Tensor, x_t: Tensor, alpha_bar: Tensor, guide_t: Tensor | None = None
    ) -> Tensor:
        """Estimate of x_0, not clipped. Arguments as `predict`."""
        out = self.predict(condition, x_t, alpha_bar, guide_t)
        a, s = signal_and_noise(alpha_bar)
        if self.config.prediction == "eps":
            return (x_t - s * out) / a
        return a * x_t - s * out

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @torch.no_grad()
    def refine(
        self,
        image: Tensor,
        hole: Tensor,
        guide: Tensor | None,
        tk: int = 200,
        steps: int | None = None,
        sampler: str = "ddpm",
        schedule: NoiseTable | None = None,
        inject: bool = True,
        seed: int | Sequence[SeedKey] = 0,
        start: str = "middle",
        spacing: str = "time",
        noise: Callable[[tuple[int, ...]], Tensor] | None = None,
        tile: int | None = None,
    ) -> Tensor:
        """Refine the guide's result inside the hole (algorithms 2 and 3).

        Standard normal tensors are drawn in this order, each N x 3 x H x W: the hole's noise of the
        condition (eq. 11); the start's; the guide's, once, for a deterministic sampler with
        injection; then at each step the guide's (stochastic samplers with injection) and the
        sampler's own.

        Args:
            image: known pixels; what it holds inside the hole is not used.
            hole: 1 where pixels are made; values of 0.5 and above count as 1.
            guide: first result for the hole. None starts from noise alone.
            tk: step of the table to start from, 1 to its length (start="middle").
            steps: network evaluations; None takes all steps of the table.
            sampler: a key of sampling.SAMPLERS.
            schedule: the noise table; the paper's of 1000 steps if None.
            inject: feed the guide in at the deepest features (eq. 15 to 17).
            seed: one number, or (seed, sample, hole) for each item of the batch.
            start: "middle" noises the guide to tk; "start" runs the table's whole length;
                "noise" is Palette's sampler: pure noise, whole table, no guide.
            spacing: how the grid is spaced, see NoiseTable.grid.
            noise: called with a shape in place of the seeded generator, to replay a run.
            tile: windows larger than this are predicted in overlapping tiles; None takes the
                weights' own, 0 never tiles.

        Returns:
            N x 3 x H x W in [-1, 1]; known pixels are those of `image`, bit for bit.

        Raises:
            UsageError: shapes or settings that make no sense.
        """
        schedule = schedule or NoiseTable()
        _check_refine_input(image, hole, guide, sampler, start)
        image, hole = (to_device(t, self.device) for t in (image, (hole >= 0.5).float()))
        guide = None if guide is None else to_device(guide.float(), self.device)
        known = torch.where(hole > 0, 0.0, image)
        draw = noise or SeededNoise(seed, len(image))

        def normal() -> Tensor:
            return to_device(draw(tuple(image.shape)), self.device)

        if guide is None:
            start, inject = "noise", False
        elif start == "noise":
            inject = False
        grid = schedule.grid(schedule.steps if start != "middle" else tk, steps, spacing)
        condition = hole * normal() + known
        x = normal()
        if start != "noise":
            assert guide is not None
            x = grid[0] ** 0.5 * guide + (1 - grid[0]) ** 0.5 * x
        guide_noise = normal() if inject and sampler not in sampling.STOCHASTIC else None

        def predict_x0(state: Tensor, alpha_bar: float, inputs: Sequence[Tensor]) -> Tensor:
            levels = torch.full((1,), alpha_bar, device=self.device)
            return self.predict_x0(inputs[0], state, levels, *inputs[1:])

        side = self.config.tile if tile is None else tile
        boxes = tile_boxes(image.shape[-2], image.shape[-1], side, self.config.unet.size_multiple)
        tiled = TiledDenoise(predict_x0, boxes, hole)

        def denoise(state: Tensor, alpha_bar: float) -> Tensor:
            # Palette's sampler hands its very first state over as drawn, known pixels noisy too
            if start != "noise" or alpha_bar != grid[0]:
                state = hole * state + known
            inputs = [condition]
            if inject and guide is not None:
                eps = normal() if guide_noise is None else guide_noise
                guide_t = alpha_bar**0.5 * guide + (1 - alpha_bar) ** 0.5 * eps
                inputs.append(hole * guide_t + known)
            x_0 = tiled(state, alpha_bar, inputs)
            return x_0 if sampler == "ddpm-beta" else x_0.clamp(-1, 1)

        x_0 = sampling.SAMPLERS[sampler](denoise, x, grid, normal)
        return torch.where(hole > 0, x_0.clamp(-1, 1), image)


class SeededNoise:
    """Standard normal tensors from one CPU generator for each item of the batch.

    An item's numbers depend on its (seed, sample, hole) alone, so it gets the same noise in any
    batch, order or resumed run and on any device.

    Args:
        seed: one number, or (seed, sample, hole) for each item.
        items: of the batch.
        device: where to draw; another one than the CPU is quicker there and has numbers of its own.
    """

    def __init__(
        self, seed: int | Sequence[SeedKey], items: int, device: torch.device | None = None
    ) -> None:
        self.device = device or torch.device("cpu")
        keys = [(seed, 0, 0)] * items if isinstance(seed, int) else list(seed)
        if len(keys) != items:
            raise UsageError(f"{len(keys)} seeds for a batch of {items}")
        self.generators = []
        for key in keys:
            words = [part % 2**64 for part in key]
            state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
            generator = torch.Generator(self.device)
            self.generators.append(generator.manual_seed(int(state >> np.uint64(1))))

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        drawn = [torch.randn(shape[1:], generator=g, device=self.device) for g in self.generators]
        return torch.stack(drawn)


def _first_half_from(a: Tensor, b: Tensor) -> Tensor:
    """First half of a's channels, second half of b's."""
    half = a.shape[1] // 2
    return torch.cat([a[:, :half], b[:, half:]], dim=1)


def signal_and_noise(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply images."""
    levels = alpha_bar.reshape(-1, 1, 1, 1)
    return levels.sqrt(), (1 - levels).sqrt()


def _extend(x: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    """Mirror at the right and bottom; repeat the edge where there is too little to mirror."""
    fits = pad[1] < x.shape[-1] and pad[3] < x.shape[-2]
    return F.pad(x, pad, mode="reflect" if fits else "replicate")


def _check_refine_input(
    image: Tensor, hole: Tensor, guide: Tensor | None, sampler: str, start: str
) -> None:
    n, height, width = len(image), image.shape[-2], image.shape[-1]
    if image.ndim != 4 or image.shape[1] != 3:
        raise UsageError(f"image must be N x 3 x H x W, not {list(image.shape)}")
    if tuple(hole.shape) != (n, 1, height, width):
        raise UsageError(f"hole must be {[n, 1, height, width]}, not {list(hole.shape)}")
    if guide is not None and guide.shape != image.shape:
        raise UsageError(f"guide must be {list(image.shape)}, not {list(guide.shape)}")
    if sampler not in sampling.SAMPLERS:
        raise UsageError(f"unknown sampler {sampler!r}", f"one of: {', '.join(sampling.SAMPLERS)}")
    if start not in STARTS:
        raise UsageError(f"unknown start {start!r}", f"one of: {', '.join(STARTS)}")
