"""The networks of DiffIR's second stage, any size of them, with the published keys.

The prior is a short vector that scales and shifts the input of every part of every block of a
four-level transformer. It is made from noise in a few diffusion steps, by a denoiser of linear
layers that is told what another small network says about the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1
NORM_EPS = 1e-5
#: side of the squares that the description of the picture folds into channels
FOLD = 4
#: columns of the noise table: weights of the estimate and of the state in the next state
COEFFICIENTS = ("posterior_mean_coef1", "posterior_mean_coef2")


@dataclass(frozen=True)
class DiffIRConfig:
    """Sizes of the networks. The defaults are those published for CelebA-HQ and Places2.

    Attributes:
        width: channels of the first level; each level has twice those of the one above.
        encoder: transformer blocks of the four levels, the deepest last.
        decoder: those on the way up, levels 1 to 3 in this order.
        heads: attention heads of the four levels.
        hidden: channels inside the feed-forward parts of the four levels.
        bias: True if the transformer's convolutions have biases.
        norm_bias: True if its norms subtract the mean and have a bias.
        input_skip: True if the first convolution is also led to the last one.
        prior: length of the prior.
        describer: width of the network that describes the picture.
        describer_blocks: its residual blocks.
        denoiser_layers: layers of the denoiser after its first.
        steps: diffusion steps.
    """

    width: int = 52
    encoder: tuple[int, ...] = (1, 1, 1, 9)
    decoder: tuple[int, ...] = (1, 1, 1)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    hidden: tuple[int, ...] = (93, 187, 374, 748)
    bias: bool = False
    norm_bias: bool = True
    input_skip: bool = False
    prior: int = 256
    describer: int = 64
    describer_blocks: int = 5
    denoiser_layers: int = 1
    steps: int = 4


class ChannelNorm(nn.Module):
    """Layer norm over the channels of N x C x H x W."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels, NORM_EPS, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        if self.body.bias is None:
            # the variant without bias keeps the mean, but divides by the deviation from it
            spread = x.var(-1, keepdim=True, unbiased=False)
            x = x * torch.rsqrt(spread + NORM_EPS) * self.body.weight
        else:
            x = self.body(x)
        return x.movedim(-1, 1)


class Steered(nn.Module):
    """A part of a block whose input channels the prior scales and shifts."""

    def __init__(self, channels: int, prior: int) -> None:
        super().__init__()
        self.kernel = nn.Sequential(nn.Linear(prior, 2 * channels, bias=False))

    def steer(self, x: Tensor, prior: Tensor) -> Tensor:
        scale, shift = self.kernel(prior)[..., None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, scale)


class ChannelAttention(Steered):
    """Attention between channels: each looks at which others have a similar pattern."""

    def __init__(self, channels: int, heads: int, config: DiffIRConfig) -> None:
        super().__init__(channels, config.prior)
        wide = 3 * channels
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, wide, 1, bias=config.bias)
        self.qkv_dwconv = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=config.bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=config.bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        heads = len(self.temperature)
        mixed = self.qkv_dwconv(self.qkv(self.steer(x, prior)))
        q, k, v = mixed.reshape(n, 3, heads, channels // heads, height * width).unbind(1)
        alike = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        attended = (alike * self.temperature).softmax(dim=-1) @ v
        out: Tensor = self.project_out(attended.reshape(n, channels, height, width))
        return out


class GatedFeedForward(Steered):
    """Two branches of a small convolution; the one gates the other."""

    def __init__(self, channels: int, hidden: int, config: DiffIRConfig) -> None:
        super().__init__(channels, config.prior)
        wide = 2 * hidden
        self.project_in = nn.Conv2d(channels, wide, 1, bias=config.bias)
        self.dwconv = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=config.bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=config.bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(self.steer(x, prior))).chunk(2, dim=1)
        out: Tensor = self.project_out(F.gelu(gate) * value)
        return out


class Block(nn.Module):
    """Attention, then feed-forward, each added to its input."""

    def __init__(self, channels: int, heads: int, hidden: int, config: DiffIRConfig) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels, config.norm_bias)
        self.attn = ChannelAttention(channels, heads, config)
        self.norm2 = ChannelNorm(channels, config.norm_bias)
        self.ffn = GatedFeedForward(channels, hidden, config)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), prior)
        x = x + self.ffn(self.norm2(x), prior)
        return x


class Level(nn.ModuleList):
    """Blocks of one resolution."""

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        for block in self:
            x = block(x, prior)
        return x


class Body(nn.Module):
    """Holds what the published names put under "body"."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def halve(channels: int) -> Body:
    """Half the height and width, twice the channels."""
    return Body(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def double(channels: int) -> Body:
    """Twice the height and width, half the channels."""
    return Body(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2))


class Transformer(nn.Module):
    """The network that paints: four levels down, four up. Attribute names are published keys."""

    def __init__(self, config: DiffIRConfig) -> None:
        super().__init__()
        widths = [config.width << level for level in range(4)]

        def blocks(count: int, level: int, at: int) -> Level:
            """`count` blocks of `level`'s heads with the widths of level `at`."""
            size = (widths[at], config.heads[level], config.hidden[at])
            return Level(Block(*size, config) for _ in range(count))

        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(4, widths[0], 3, padding=1, bias=False)}
        )
        self.encoder_level1 = blocks(config.encoder[0], 0, 0)
        self.down1_2 = halve(widths[0])
        self.encoder_level2 = blocks(config.encoder[1], 1, 1)
        self.down2_3 = halve(widths[1])
        self.encoder_level3 = blocks(config.encoder[2], 2, 2)
        self.down3_4 = halve(widths[2])
        self.latent = blocks(config.encoder[3], 3, 3)
        self.up4_3 = double(widths[3])
        self.reduce_chan_level3 = nn.Conv2d(widths[3], widths[2], 1, bias=config.bias)
        self.decoder_level3 = blocks(config.decoder[2], 2, 2)
        self.up3_2 = double(widths[2])
        self.reduce_chan_level2 = nn.Conv2d(widths[2], widths[1], 1, bias=config.bias)
        self.decoder_level2 = blocks(config.decoder[1], 1, 1)
        self.up2_1 = double(widths[1])
        # the first level is joined, not reduced, on the way up: it has the second's widths
        self.decoder_level1 = blocks(config.decoder[0], 0, 1)
        if config.input_skip:
            self.skip_conv = nn.Conv2d(widths[0], widths[1], 1, bias=config.bias)
        self.output = nn.Conv2d(widths[1], 3, 3, padding=1, bias=config.bias)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        embedded = self.patch_embed["proj"](x)
        level1 = self.encoder_level1(embedded, prior)
        level2 = self.encoder_level2(self.down1_2(level1), prior)
        level3 = self.encoder_level3(self.down2_3(level2), prior)
        h = self.latent(self.down3_4(level3), prior)
        h = self.reduce_chan_level3(torch.cat([self.up4_3(h), level3], dim=1))
        h = self.decoder_level3(h, prior)
        h = self.reduce_chan_level2(torch.cat([self.up3_2(h), level2], dim=1))
        h = self.decoder_level2(h, prior)
        h = self.decoder_level1(torch.cat([self.up2_1(h), level1], dim=1), prior)
        if hasattr(self, "skip_conv"):
            h = h + self.skip_conv(embedded)
        out: Tensor = self.output(h)
        return out


class ResidualConvs(Body):
    """Two convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Describer(nn.Module):
    """Picture with hole to a vector that describes it."""

    def __init__(self, config: DiffIRConfig) -> None:
        super().__init__()
        width = config.describer
        sizes = ((width, 2 * width), (2 * width, 2 * width), (2 * width, 4 * width))
        widening = [(nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(SLOPE)) for a, b in sizes]
        self.E = nn.Sequential(
            nn.Conv2d(4 * FOLD**2, width, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            *(ResidualConvs(width) for _ in range(config.describer_blocks)),
            *(layer for pair in widening for layer in pair),
        )
        linears = [(nn.Linear(4 * width, 4 * width), nn.LeakyReLU(SLOPE)) for _ in range(2)]
        self.mlp = nn.Sequential(*(layer for pair in linears for layer in pair))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.E(F.pixel_unshuffle(x, FOLD)).mean((2, 3)))
        return out


class DenoiserLayer(nn.Module):
    """A linear layer with its activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resmlp = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resmlp(x)
        return out


class Denoiser(nn.Module):
    """Estimates the prior from its noised state, the step and the description."""

    def __init__(self, config: DiffIRConfig) -> None:
        super().__init__()
        self.longest = 10 * config.steps
        self.resmlp = nn.Sequential(
            nn.Linear(2 * config.prior + 1, config.prior),
            nn.LeakyReLU(SLOPE),
            *(DenoiserLayer(config.prior) for _ in range(config.denoiser_layers)),
        )

    def forward(self, state: Tensor, step: int, description: Tensor) -> Tensor:
        time = state.new_full((len(state), 1), step / self.longest)
        out: Tensor = self.resmlp(torch.cat([description, time, state], dim=1))
        return out


class DiffIR(nn.Module):
    """The second stage's networks and its steps. Attribute names are the published keys."""

    def __init__(self, config: DiffIRConfig) -> None:
        super().__init__()
        self.config = config
        self.G = Transformer(config)
        self.condition = Describer(config)
        self.denoise = Denoiser(config)
        self.diffusion = nn.Module()
        for name in COEFFICIENTS:
            self.diffusion.register_buffer(name, torch.zeros(config.steps))

    def prior(self, masked: Tensor, noise: Tensor) -> Tensor:
        """The diffusion that turns noise, N x prior, into the prior; it adds no noise itself."""
        description = self.condition(masked)
        of_estimate, of_state = (getattr(self.diffusion, name) for name in COEFFICIENTS)
        state = noise
        for step in reversed(range(self.config.steps)):
            estimate = self.denoise(state, step, description)
            state = of_estimate[step] * estimate + of_state[step] * state
        return state

    def forward(self, masked: Tensor, noise: Tensor) -> Tensor:
        """N x 4 x H x W, RGB in [0, 1] with zeros in the hole and the hole, to N x 3 x H x W."""
        out: Tensor = self.G(masked, self.prior(masked, noise))
        return out
