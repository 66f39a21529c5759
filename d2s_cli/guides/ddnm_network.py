"""The DDPM network (Ho et al., "Denoising Diffusion Probabilistic Models", 2020), any size of it.

It predicts noise from a state and a step number. Attribute names are those of the checkpoints.
Unlike Palette's and guided-diffusion's it adds the step's embedding instead of scaling with it,
resamples with convolutions between the levels, and has attention with a single head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2s_cli.guides.network import count_items, length

IMAGE_CHANNELS = 3
NORM_GROUPS = 32
NORM_EPS = 1e-6
#: resolution at which every published configuration has attention
ATTENTION_SIDE = 16
#: side of the pictures it was trained on where attention does not tell
USUAL_SIDE = 256


@dataclass(frozen=True)
class DDPMConfig:
    """Shape of the network. The defaults are the CelebA-HQ model.

    Attributes:
        channels: of the first convolution; the embedding has four times as many.
        widths: channels of each level; each halves the resolution of the one before.
        res_blocks: residual blocks a level (one more on the way up).
        attention_levels: levels, counted from 0, with attention after each residual block.
        out_channels: 3, or 6 with a variance that is not used.
        convolved: resampling goes through a convolution; else it is a mean and a repetition.
    """

    channels: int = 128
    widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512)
    res_blocks: int = 2
    attention_levels: tuple[int, ...] = (4,)
    out_channels: int = 3
    convolved: bool = True

    @property
    def side(self) -> int:
        """Height and width of the pictures it was trained on."""
        if len(self.attention_levels) != 1:
            return USUAL_SIDE
        return ATTENTION_SIDE << self.attention_levels[0]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPS)


class StepEmbedding(nn.Module):
    """(N,) step numbers to what every residual block reads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.count = channels // 2
        self.dense = nn.ModuleList(
            [nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)]
        )

    def forward(self, step: Tensor) -> Tensor:
        # frequencies from 1 down to 1 / 10000; sines come first
        numbers = torch.arange(self.count, dtype=torch.float32, device=step.device)
        frequencies = torch.exp(numbers * -(math.log(10000.0) / (self.count - 1)))
        angles = step.float()[:, None] * frequencies[None]
        first, second = self.dense
        embedding: Tensor = second(F.silu(first(torch.cat([angles.sin(), angles.cos()], dim=1))))
        return embedding


class ResidualBlock(nn.Module):
    """norm-SiLU-conv twice, the step's embedding added in between."""

    def __init__(self, channels: int, out_channels: int, embedding_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(embedding_channels, out_channels)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        changes = channels != out_channels
        self.nin_shortcut = nn.Conv2d(channels, out_channels, 1) if changes else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        result: Tensor = h + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return result


class Attention(nn.Module):
    """Self-attention over all positions, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        projected: Tensor = self.proj_out(attended.reshape(x.shape))
        return x + projected


class Downsample(nn.Module):
    """Halves the resolution; the convolution is padded at the right and bottom alone."""

    def __init__(self, channels: int, convolved: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if convolved else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Doubles the resolution."""

    def __init__(self, channels: int, convolved: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if convolved else None

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.conv is not None:
            doubled = self.conv(doubled)
        return doubled


class Level(nn.Module):
    """The blocks of one resolution on the way down or up, and what changes it afterwards."""

    def __init__(
        self,
        blocks: list[ResidualBlock],
        attention: list[Attention],
        downsample: Downsample | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attention)
        self.downsample = downsample
        self.upsample = upsample

    def run(self, index: int, x: Tensor, embedding: Tensor) -> Tensor:
        """Residual block `index`, and its attention where the level has it."""
        h: Tensor = self.block[index](x, embedding)
        if len(self.attn):
            h = self.attn[index](h)
        return h


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, embedding_channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, embedding_channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResidualBlock(channels, channels, embedding_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.block_2(self.attn_1(self.block_1(x, embedding)), embedding)
        return h


class DDPMUNet(nn.Module):
    """See the module's text."""

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.config = config
        embedding = 4 * config.channels
        self.temb = StepEmbedding(config.channels)
        self.conv_in = nn.Conv2d(IMAGE_CHANNELS, config.channels, 3, padding=1)
        last = len(config.widths) - 1

        def blocks(inputs: list[int], level: int) -> tuple[list[ResidualBlock], list[Attention]]:
            width = config.widths[level]
            attends = level in config.attention_levels
            return (
                [ResidualBlock(channels, width, embedding) for channels in inputs],
                [Attention(width) for _ in inputs if attends],
            )

        self.down = nn.ModuleList()
        skips = [config.channels]
        for level, width in enumerate(config.widths):
            inputs = [skips[-1]] + [width] * (config.res_blocks - 1)
            skips += [width] * config.res_blocks
            halved = Downsample(width, config.convolved) if level < last else None
            if halved is not None:
                skips.append(width)
            self.down.append(Level(*blocks(inputs, level), downsample=halved))

        channels = config.widths[-1]
        self.mid = Middle(channels, embedding)

        ups = []
        for level in reversed(range(last + 1)):
            width = config.widths[level]
            inputs = []
            for _ in range(config.res_blocks + 1):
                inputs.append(channels + skips.pop())
                channels = width
            doubled = Upsample(width, config.convolved) if level else None
            ups.append(Level(*blocks(inputs, level), upsample=doubled))
        self.up = nn.ModuleList(reversed(ups))
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Predicted noise (N, out_channels, H, W) for states (N, 3, H, W) at float steps (N,)."""
        embedding = self.temb(step)
        h: Tensor = self.conv_in(x)
        skips = [h]
        for level in _levels(self.down):
            for index in range(len(level.block)):
                h = level.run(index, h, embedding)
                skips.append(h)
            if level.downsample is not None:
                h = level.downsample(h)
                skips.append(h)
        h = self.mid(h, embedding)
        for level in reversed(_levels(self.up)):
            for index in range(len(level.block)):
                h = level.run(index, torch.cat([h, skips.pop()], dim=1), embedding)
            if level.upsample is not None:
                h = level.upsample(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


def _levels(modules: nn.ModuleList) -> list[Level]:
    return [module for module in modules if isinstance(module, Level)]


def config_from_tensors(tensors: Mapping[str, Tensor]) -> DDPMConfig:
    """Read the network's shape off its tensors.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    levels = count_items(tensors, "down.")
    attending = [i for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors]
    return DDPMConfig(
        channels=length(tensors, "conv_in.weight"),
        widths=tuple(length(tensors, f"down.{i}.block.0.conv1.weight") for i in range(levels)),
        res_blocks=count_items(tensors, "down.0.block."),
        attention_levels=tuple(attending),
        out_channels=length(tensors, "conv_out.weight"),
        convolved=levels == 1 or "down.0.downsample.conv.weight" in tensors,
    )
