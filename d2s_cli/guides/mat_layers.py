"""The layers that MAT is made of; all but the window attention are those of StyleGAN2.

Stored weights have unit variance and are scaled when used ("equalised learning rate"). Convolutions
that change resolution blur with the binomial filter 1 3 3 1. A style scales the input channels of a
convolution; its output channels are brought back to unit variance ("demodulation").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
BLUR = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
EPS = 1e-8
#: added to attention between positions that must not see each other
APART = -100.0


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2)


def blur(x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
    """The binomial filter along both axes after zero padding; `gain` along each."""
    channels = x.shape[1]
    taps = x.new_tensor(BLUR) * gain
    x = F.conv2d(
        x, taps.view(1, 1, 4, 1).repeat(channels, 1, 1, 1), padding=(pad, 0), groups=channels
    )
    return F.conv2d(x, taps.repeat(channels, 1, 1, 1), padding=(0, pad), groups=channels)


def enlarge(x: Tensor) -> Tensor:
    """Twice the height and width by the binomial filter."""
    channels = x.shape[1]
    taps = 2 * x.new_tensor(BLUR)
    kernel = torch.outer(taps, taps).repeat(channels, 1, 1, 1)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


def resampling_conv(x: Tensor, weight: Tensor, resample: str) -> Tensor:
    """Convolution with same padding; "down" halves and "up" doubles the height and width."""
    if resample == "down":
        return F.conv2d(blur(x, pad=2), weight, stride=2)
    if resample == "up":
        spread = F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), stride=2)
        return blur(spread, pad=1, gain=2.0)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class ScaledLinear(nn.Module):
    """Linear layer of unit-variance weights.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        active: True if the activation follows.
        rate: further factor of weights and biases.
    """

    def __init__(self, inputs: int, outputs: int, active: bool = False, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.active = active
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        gain = self.rate / math.sqrt(self.weight.shape[1])
        x = F.linear(x, self.weight * gain, self.bias * self.rate)
        return activate(x) if self.active else x


class ScaledConv(nn.Module):
    """Convolution of unit-variance weights with bias and activation."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, resample: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        gain = 1 / math.sqrt(self.weight[0].numel())
        x = resampling_conv(x, self.weight * gain, self.resample)
        return activate(x + self.bias[:, None, None])


class PartialConv(nn.Module):
    """Convolution whose result counts by how much of its neighbourhood is known."""

    def __init__(self, inputs: int, outputs: int, resample: str = "") -> None:
        super().__init__()
        self.conv = ScaledConv(inputs, outputs, resample=resample)

    def forward(self, x: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`known` is N x 1 x H x W, or None if everything counts as known."""
        x = self.conv(x)
        if known is None:
            return x, None
        stride = 2 if self.conv.resample == "down" else 1
        count = F.conv2d(known, known.new_ones(1, 1, 3, 3), stride=stride, padding=1)
        reached = count.clamp(0, 1)
        return x * (9 / (count + EPS) * reached), reached


class ModulatedConv(nn.Module):
    """Convolution whose input channels a style scales."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: int,
        side: int = 3,
        resample: str = "",
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, side, side))
        self.affine = ScaledLinear(style, inputs)
        self.resample = resample
        self.demodulate = demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.weight[0] / math.sqrt(self.weight[0, 0].numel())
        scale = self.affine(style)
        out = resampling_conv(x * scale[:, :, None, None], weight, self.resample)
        if self.demodulate:
            energy = scale.square() @ weight.square().sum((2, 3)).T
            out = out * torch.rsqrt(energy + EPS)[:, :, None, None]
        return out


class StyledConv(nn.Module):
    """Modulated convolution, noise of a learned strength, bias, activation.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        style: width of the style.
        resample: "up" to double the resolution.
        noise_side: height and width of the result where it gets noise; 0 if it gets none.
    """

    def __init__(
        self, inputs: int, outputs: int, style: int, resample: str = "", noise_side: int = 0
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, style, resample=resample)
        self.bias = nn.Parameter(torch.zeros(outputs))
        if noise_side:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(noise_side, noise_side))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        """`noise` is added where it is given: H x W, or N x 1 x H x W."""
        x = self.conv(x, style)
        if noise is not None:
            x = x + noise * self.noise_strength
        return activate(x + self.bias[:, None, None])


class ToRGB(nn.Module):
    """Features to a picture, added to that of the resolution below."""

    def __init__(self, inputs: int, style: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, style, side=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor, below: Tensor | None) -> Tensor:
        picture: Tensor = self.conv(x, style) + self.bias[:, None, None]
        return picture if below is None else picture + enlarge(below)


def to_windows(x: Tensor, side: int) -> Tensor:
    """N x H x W x C to N x windows x side² x C."""
    n, height, width, channels = x.shape
    cut = x.view(n, height // side, side, width // side, side, channels)
    return cut.transpose(2, 3).reshape(n, -1, side * side, channels)


def from_windows(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`."""
    n, _, area, channels = x.shape
    side = math.isqrt(area)
    cut = x.view(n, height // side, width // side, side, side, channels)
    return cut.transpose(2, 3).reshape(n, height, width, channels)


def seam_bias(height: int, width: int, side: int, shift: int, device: torch.device) -> Tensor:
    """Keeps apart what only the cyclic shift has brought into one window (Swin, section 3.2).

    Returns:
        0 or `APART`, windows x side² x side².
    """

    def bands(length: int) -> Tensor:
        place = torch.arange(length, device=device)
        return (place >= length - side).long() + (place >= length - shift).long()

    regions = 3 * bands(height)[:, None] + bands(width)
    of_window = to_windows(regions[None, ..., None], side)[0, ..., 0]
    return (of_window[:, :, None] != of_window[:, None]) * APART


class WindowAttention(nn.Module):
    """Attention within windows; queries and keys are made of directions, values of all."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = ScaledLinear(width, width)
        self.k = ScaledLinear(width, width)
        self.v = ScaledLinear(width, width)
        self.proj = ScaledLinear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """N x windows x tokens x C, and a bias that broadcasts to N x windows x heads x tokens²."""
        direction = F.normalize(x, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for part in (self.q(direction), self.k(direction), self.v(x))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.proj(attended.transpose(2, 3).flatten(-2))
        return out


class WindowBlock(nn.Module):
    """Attention within (shifted) windows, fused with its input; no norms, no residual sums.

    Args:
        width: channels.
        heads: attention heads.
        hidden: channels inside the feed-forward part.
        side: height and width of a window.
        shift: pixels by which the windows are moved.
    """

    def __init__(self, width: int, heads: int, hidden: int, side: int, shift: int) -> None:
        super().__init__()
        self.side = side
        self.shift = shift
        self.attn = WindowAttention(width, heads)
        self.fuse = ScaledLinear(2 * width, width, active=True)
        self.mlp = nn.ModuleDict(
            {
                "fc1": ScaledLinear(width, hidden, active=True),
                "fc2": ScaledLinear(hidden, width),
            }
        )

    def forward(self, x: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`x` is N x H x W x C; `known` N x H x W x 1. A window with one known place counts as
        known afterwards."""
        height, width = x.shape[1:3]
        there, back = (-self.shift, -self.shift), (self.shift, self.shift)
        windows = to_windows(x.roll(there, (1, 2)), self.side)
        bias = None
        if self.shift:
            seams = seam_bias(height, width, self.side, self.shift, x.device)
            bias = seams[None, :, None]
        if known is not None:
            seen = to_windows(known.roll(there, (1, 2)), self.side)
            hidden = (1 - seen).transpose(2, 3)[:, :, None] * APART
            bias = hidden if bias is None else bias + hidden
            reached = seen.amax(2, keepdim=True).expand_as(seen)
            known = from_windows(reached, height, width).roll(back, (1, 2))
        attended = from_windows(self.attn(windows, bias), height, width).roll(back, (1, 2))
        fused = self.fuse(torch.cat([x, attended], dim=-1))
        return self.mlp["fc2"](self.mlp["fc1"](fused)), known
