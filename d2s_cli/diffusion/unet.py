"""Palette's UNet, any size of it, with the keys of the published checkpoints.

The network takes 6 image channels, concat(condition, x_t), and the noise level alpha_bar itself (a
float in (0, 1]) instead of a step number; guided-diffusion's networks, from which it descends, take
3 channels and a step number, and are otherwise the same. It is split in three, `encode`, `middle`
and `decode`, because the injection of the guide (eq. 15 to 17) runs the first two twice and the
last once.

`unshuffle=2` folds 2x2 pixels into channels at the input and unfolds them at the output: four times
less arithmetic at the same widths. Published checkpoints have `unshuffle=1`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from d2s_cli.errors import WeightsError

IMAGE_CHANNELS = 3
NORM_GROUPS = 32
#: on the CPU, torch normalises maps of fewer positions than this many times faster with channels
#: outermost (70 ms against 10 for 113 maps of 24 x 24, reordering included)
SMALL_MAP = 1024
UP_BLOCK_KEY = r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight"


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the network. The defaults are the published Palette inpainting model.

    Attributes:
        inner_channels: width of the first level; a multiple of 32.
        channel_mults: width of each level as a multiple of `inner_channels`; each level halves the
            resolution of the one before.
        res_blocks: residual blocks a level (the decoder has one more).
        attention_levels: levels, counted from 0, with attention after each residual block; the
            middle block always has it.
        head_channels: channels of one attention head.
        dropout: probability, used in training only.
        unshuffle: side of the pixel square folded into channels, 1 or more.
    """

    inner_channels: int = 64
    channel_mults: tuple[int, ...] = (1, 2, 4, 8)
    res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    head_channels: int = 32
    dropout: float = 0.0
    unshuffle: int = 1

    @property
    def size_multiple(self) -> int:
        """Heights and widths in pixels must be multiples of this."""
        return self.unshuffle << (len(self.channel_mults) - 1)

    @property
    def embedding_channels(self) -> int:
        return 4 * self.inner_channels


def noise_level_embedding(alpha_bar: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of alpha_bar at `width / 2` frequencies from 1 down to 1 / max_period.

    Args:
        alpha_bar: shape (N,), in (0, 1].
        width: even number of outputs.

    Returns:
        float32, shape (N, width).
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=alpha_bar.device) / half
    frequencies = torch.exp(-math.log(max_period) * exponents)
    angles = alpha_bar.float()[:, None] * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class Norm(nn.GroupNorm):
    """GroupNorm of NORM_GROUPS groups. Small maps come back with channels outermost on the CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self._normalised(x, self.weight, self.bias)

    def modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """shift + norm(x) (1 + scale); scale and shift are N x C, or 1 x C for the whole batch."""
        if len(scale) == 1:  # one pass over x
            gain = 1 + scale[0].float()
            return self._normalised(x, self.weight * gain, self.bias * gain + shift[0].float())
        scale, shift = (t[:, :, None, None].to(x.dtype) for t in (scale, shift))
        return torch.addcmul(shift, self(x), 1 + scale)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.shape[2:].numel() < SMALL_MAP:
            x = x.contiguous()
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


def _silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else holds: written over it where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-conv twice; the noise level scales and shifts the second norm.

    With `resample` "down" (2x2 mean) or "up" (nearest), both branches change resolution after the
    first activation, as in the published network.
    """

    def __init__(
        self, channels: int, out_channels: int, config: UNetConfig, resample: str = ""
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            Norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(config.embedding_channels, 2 * out_channels)
        )
        self.out_layers = nn.Sequential(
            Norm(out_channels),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        nn.init.zeros_(self.out_layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.out_layers[-1].bias)  # type: ignore[arg-type]
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, _, conv = self.in_layers
        h = conv(self._resample(_silu(norm(x))))
        scale, shift = self.emb_layers(embedding).chunk(2, dim=1)
        norm, _, dropout, conv = self.out_layers
        assert isinstance(norm, Norm)
        h = conv(dropout(_silu(norm.modulated(h, scale, shift))))
        skip: Tensor = self.skip_connection(self._resample(x))
        return skip.add(h) if torch.is_grad_enabled() else h.add_(skip)


class AttentionBlock(nn.Module):
    """Self-attention over all positions; q, k and v lie head by head in the qkv channels."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.heads = max(1, channels // config.head_channels)
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        flat = x.reshape(n, channels, height * width)
        qkv = self.qkv(self.norm(flat)).reshape(n, self.heads, 3, channels // self.heads, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(2)
        attended = F.scaled_dot_product_attention(q, k, v)
        merged = attended.transpose(-1, -2).reshape(n, channels, height * width)
        projected: Tensor = self.proj_out(merged)
        return (flat + projected).reshape(x.shape)


class Stage(nn.Sequential):
    """Layers run one after the other; those that use the noise level get its embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, embedding)
        return x


class UNet(nn.Module):
    """See the module's text. Attribute names are the published keys.

    Args:
        config: shape of the network.
        in_channels, out_channels: of the pictures that go in and come out.

    Attributes:
        checkpointing: while gradients are computed, keep only what goes into each stage and run the
            stage again on the way back: less memory for about a third more arithmetic.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int = 2 * IMAGE_CHANNELS,
        out_channels: int = IMAGE_CHANNELS,
    ) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        inner, mults = config.inner_channels, config.channel_mults
        folded = config.unshuffle**2
        self.cond_embed = nn.Sequential(
            nn.Linear(inner, config.embedding_channels),
            nn.SiLU(),
            nn.Linear(config.embedding_channels, config.embedding_channels),
        )

        def level_stage(channels: int, level: int) -> Stage:
            width = inner * mults[level]
            stage = Stage(ResidualBlock(channels, width, config))
            if level in config.attention_levels:
                stage.append(AttentionBlock(width, config))
            return stage

        channels = inner * mults[0]
        self.input_blocks = nn.ModuleList(
            [Stage(nn.Conv2d(in_channels * folded, channels, 3, padding=1))]
        )
        skips = [channels]
        for level, mult in enumerate(mults):
            for _ in range(config.res_blocks):
                self.input_blocks.append(level_stage(channels, level))
                channels = inner * mult
                skips.append(channels)
            if level != len(mults) - 1:
                self.input_blocks.append(Stage(ResidualBlock(channels, channels, config, "down")))
                skips.append(channels)

        self.middle_block = Stage(
            ResidualBlock(channels, channels, config),
            AttentionBlock(channels, config),
            ResidualBlock(channels, channels, config),
        )

        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(mults))):
            for block in range(config.res_blocks + 1):
                stage = level_stage(channels + skips.pop(), level)
                channels = inner * mults[level]
                if level and block == config.res_blocks:
                    stage.append(ResidualBlock(channels, channels, config, "up"))
                self.output_blocks.append(stage)

        self.out = nn.Sequential(
            Norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels * folded, 3, padding=1),
        )
        nn.init.zeros_(self.out[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.out[-1].bias)  # type: ignore[arg-type]

    def _run(self, stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        again = self.checkpointing and torch.is_grad_enabled()
        out: Tensor = (
            checkpoint(stage, h, embedding, use_reentrant=False) if again else stage(h, embedding)
        )
        return out

    def embed(self, alpha_bar: Tensor) -> Tensor:
        """Noise levels, shape (N,), to the embedding that every residual block reads."""
        embedding: Tensor = self.cond_embed(
            noise_level_embedding(alpha_bar, self.config.inner_channels)
        )
        return embedding

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """F_e: (N, 6, H, W) to the deepest features and the skip connections, shallow first."""
        h = F.pixel_unshuffle(x, self.config.unshuffle) if self.config.unshuffle > 1 else x
        skips = []
        for stage in self.input_blocks:
            h = self._run(stage, h, embedding)
            skips.append(h)
        return h, skips

    def middle(self, h: Tensor, embedding: Tensor) -> Tensor:
        """F_m: residual block, attention, residual block at the lowest resolution."""
        return self._run(self.middle_block, h, embedding)

    def decode(self, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """Deep features and skips to the prediction, (N, 3, H, W). Leaves `skips` as it is."""
        for stage, skip in zip(self.output_blocks, reversed(skips), strict=True):
            h = self._run(stage, torch.cat([h, skip], dim=1), embedding)
        norm, _, conv = self.out
        h = conv(_silu(norm(h)))
        return F.pixel_shuffle(h, self.config.unshuffle) if self.config.unshuffle > 1 else h

    def forward(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """Prediction for concat(condition, x_t), (N, 6, H, W), at noise levels (N,)."""
        embedding = self.embed(alpha_bar)
        h, skips = self.encode(x, embedding)
        return self.decode(self.middle(h, embedding), skips, embedding)


def config_from_state_dict(state: Mapping[str, Tensor]) -> UNetConfig:
    """Read the network's shape off its tensors, so that a checkpoint needs no side file.

    `head_channels` and `dropout` leave no trace in the tensors and keep the published values.

    Raises:
        WeightsError: the tensors are not those of a Palette UNet.
    """
    try:
        first = state["input_blocks.0.0.weight"]
        inner = state["cond_embed.0.weight"].shape[1]
    except KeyError as missing:
        raise WeightsError(
            f"this is no Palette UNet: the tensor {missing} is missing",
            "expected keys: cond_embed.*, input_blocks.*, middle_block.*, output_blocks.*, out.*"
            " (with or without the prefix denoise_fn.)",
        ) from None
    if first.shape[1] % (2 * IMAGE_CHANNELS):
        raise WeightsError(
            f"the network takes {first.shape[1]} input channels; an inpainting refiner takes"
            " 6 (condition and x_t), or 6 times a square with pixel-unshuffled input"
        )
    unshuffle = math.isqrt(first.shape[1] // (2 * IMAGE_CHANNELS))
    return dataclasses.replace(levels_from_state_dict(state, inner), unshuffle=unshuffle)


def levels_from_state_dict(state: Mapping[str, Tensor], inner: int) -> UNetConfig:
    """Levels, widths, blocks and attention of a network of `inner` channels, off its tensors.

    Raises:
        WeightsError: its levels are resampled in another way, or have impossible widths.
    """
    # every level but the first ends its decoder stages with an up-sampling block, the only place
    # with a second residual block in one stage
    levels = 1 + sum(re.fullmatch(UP_BLOCK_KEY, key) is not None for key in state)
    stages = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("input_blocks."))
    if stages % levels:
        raise WeightsError(
            f"{stages} encoder stages do not divide into {levels} levels; only networks that"
            " resample with residual blocks (resblock_updown) are supported"
        )
    stages_per_level = stages // levels
    firsts = [1 + level * stages_per_level for level in range(levels)]
    keys = [f"input_blocks.{i}.0.out_layers.3.weight" for i in firsts]
    if missing := [key for key in keys if key not in state]:
        raise WeightsError(f"the network's {levels} levels are incomplete: {missing[0]} is missing")
    widths = [state[key].shape[0] for key in keys]
    if any(width % inner or width % NORM_GROUPS for width in widths):
        raise WeightsError(f"a network of {inner} channels cannot have levels of {widths}")
    return UNetConfig(
        inner_channels=inner,
        channel_mults=tuple(width // inner for width in widths),
        res_blocks=stages_per_level - 1,
        attention_levels=tuple(
            level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in state
        ),
    )
