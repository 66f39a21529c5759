"""MAT's generator, any size of it, with the published keys.

Two stages fill the hole one after the other. The first is a transformer over windows of features
(64 x 64 and fewer); it starts from the known places alone and lets them spread. The second is a
StyleGAN2 decoder on top of a convolutional encoder. A random style, mixed into the deepest features
of both stages at random places, makes the result one of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from d2s_cli.guides.mat_layers import (
    EPS,
    PartialConv,
    ScaledConv,
    ScaledLinear,
    StyledConv,
    ToRGB,
    WindowBlock,
)

#: height and width of the first stage's features at the transformer's ends, and of the deepest
TOKEN_SIDE = 64
DEEPEST_SIDE = 16
#: how the five layers of the transformer change the resolution before their blocks
RESAMPLE = ("", "down", "down", "up", "up")
#: layers of the transformer that still tell known places from others
MASKED_LAYERS = 2
MIDDLE = 2
MAPPING_RATE = 0.01


@dataclass(frozen=True)
class MATConfig:
    """Sizes of the network. The defaults are those published for 256 x 256.

    Attributes:
        side: height and width of its pictures.
        width: channels of the first stage.
        depths: blocks of the transformer's five layers.
        windows: their window sides.
        heads: attention heads.
        hidden: channels inside the blocks' feed-forward parts.
        style_convs: convolutions that reduce the first stage's features to a style.
        latent: length of the random vector z.
        style: length of the style w made of it.
        mapping: layers that make it.
        channels: those of the second stage, from the full resolution down to 16 x 16.
        picture_convs: convolutions that reduce the second stage's features to a style.
        picture_style: length of that style.
        noise: True if the second stage's layers have noise maps.
    """

    side: int = 256
    width: int = 180
    depths: tuple[int, ...] = (2, 3, 4, 3, 2)
    windows: tuple[int, ...] = (8, 16, 16, 16, 8)
    heads: int = 6
    hidden: int = 360
    style_convs: int = 4
    latent: int = 512
    style: int = 512
    mapping: int = 8
    channels: tuple[int, ...] = (128, 256, 512, 512, 512)
    picture_convs: int = 3
    picture_style: int = 1024
    noise: bool = True

    @property
    def sides(self) -> tuple[int, ...]:
        """The resolutions of `channels`."""
        return tuple(self.side >> level for level in range(len(self.channels)))

    @property
    def token_levels(self) -> int:
        """How often the first stage halves the picture before its transformer."""
        return (self.side // TOKEN_SIDE).bit_length() - 1

    @property
    def noise_sides(self) -> tuple[int, ...]:
        """Sides of the noise maps in the order in which they are added."""
        if not self.noise:
            return ()
        rising = self.sides[::-1]
        return (rising[0], *(side for side in rising[1:] for _ in range(2)))


@dataclass(frozen=True)
class Draws:
    """Everything that is left to chance in one pass.

    Attributes:
        z: the random vector, N x latent, standard normal.
        keep_tokens: N x 16² x width, 0 or 1: where the first stage's features are kept; elsewhere
            the style takes their place.
        keep_features: the same for the second stage, N x channels x 16 x 16.
        noise: a map, H x W or N x 1 x H x W, for each of `MATConfig.noise_sides`; none at all
            leaves noise out.
    """

    z: Tensor
    keep_tokens: Tensor
    keep_features: Tensor
    noise: Sequence[Tensor] = ()

    def to(self, device: torch.device) -> Draws:
        """The same on a device."""
        noise = [one.to(device) for one in self.noise]
        places = (self.keep_tokens.to(device), self.keep_features.to(device))
        return Draws(self.z.to(device), *places, noise)


class Mapping(nn.Module):
    """Random vector to style."""

    def __init__(self, config: MATConfig) -> None:
        super().__init__()
        self.layers = [f"fc{number}" for number in range(config.mapping)]
        widths = [config.latent, *([config.style] * config.mapping)]
        for name, inputs, outputs in zip(self.layers, widths, widths[1:], strict=False):
            self.add_module(name, ScaledLinear(inputs, outputs, active=True, rate=MAPPING_RATE))
        self.register_buffer("w_avg", torch.zeros(config.style))

    def forward(self, z: Tensor, psi: float) -> Tensor:
        """`psi` below 1 moves styles towards their mean."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + EPS)
        for name in self.layers:
            x = self.get_submodule(name)(x)
        average: Tensor = self.get_buffer("w_avg")
        return torch.lerp(average, x, psi)


class WindowLayer(nn.Module):
    """Blocks of one resolution, a convolution after them, and the input added."""

    def __init__(self, config: MATConfig, index: int) -> None:
        super().__init__()
        width, window = config.width, config.windows[index]
        if RESAMPLE[index]:
            conv = PartialConv(width, width, RESAMPLE[index])
            self.downsample = nn.ModuleDict({"conv": conv})
        # a window as large as the features has nowhere to move
        whole = window >= TOKEN_SIDE >> min(index, len(RESAMPLE) - 1 - index)
        shift = 0 if whole else window // 2
        self.blocks = nn.ModuleList(
            WindowBlock(width, config.heads, config.hidden, window, shift if number % 2 else 0)
            for number in range(config.depths[index])
        )
        self.conv = PartialConv(width, width)

    def forward(self, x: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if hasattr(self, "downsample"):
            x, known = self.downsample["conv"](x, known)
        tokens = x.permute(0, 2, 3, 1)
        seen = None if known is None else known.permute(0, 2, 3, 1)
        for block in self.blocks:
            tokens, seen = block(tokens, seen)
        known = None if seen is None else seen.permute(0, 3, 1, 2)
        out, known = self.conv(tokens.permute(0, 3, 1, 2), known)
        return out + x, known


class PaintBlock(nn.Module):
    """One resolution on the way up: convolution, skip added, convolution, picture.

    Args:
        inputs: channels from below.
        outputs: channels here.
        style: width of the style.
        noise_side: see `StyledConv`.
        lowest: True for the lowest resolution, which has nothing to enlarge.
    """

    def __init__(
        self, inputs: int, outputs: int, style: int, noise_side: int = 0, lowest: bool = False
    ) -> None:
        super().__init__()
        self.conv0 = (
            ScaledConv(inputs, inputs)
            if lowest
            else StyledConv(inputs, outputs, style, "up", noise_side)
        )
        self.conv1 = StyledConv(outputs, outputs, style, noise_side=noise_side)
        self.toRGB = ToRGB(outputs, style)

    def forward(
        self,
        x: Tensor,
        below: Tensor | None,
        style: Tensor,
        skip: Tensor,
        noise: Sequence[Tensor | None] = (None, None),
    ) -> tuple[Tensor, Tensor]:
        """Features and picture from below to those of this resolution."""
        plain = isinstance(self.conv0, ScaledConv)
        x = self.conv0(x) if plain else self.conv0(x, style, noise[0])
        x = self.conv1(x + skip, style, noise[1])
        return x, self.toRGB(x, style, below)


class FirstStage(nn.Module):
    """The transformer. Attribute names are the published keys."""

    def __init__(self, config: MATConfig) -> None:
        super().__init__()
        width, levels = config.width, config.token_levels
        self.conv_first = PartialConv(4, width)
        self.enc_conv = nn.ModuleList(PartialConv(width, width, "down") for _ in range(levels))
        self.tran = nn.ModuleList(WindowLayer(config, index) for index in range(len(RESAMPLE)))
        self.down_conv = nn.Sequential(
            *(ScaledConv(width, width, resample="down") for _ in range(config.style_convs))
        )
        self.to_style = ScaledLinear(width, 2 * width, active=True)
        self.ws_style = ScaledLinear(config.style, width, active=True)
        self.to_square = ScaledLinear(width, DEEPEST_SIDE**2, active=True)
        self.dec_conv = nn.ModuleList(PaintBlock(width, width, 3 * width) for _ in range(levels))

    def forward(self, image: Tensor, known: Tensor, w: Tensor, keep: Tensor) -> Tensor:
        x, seen = self.conv_first(torch.cat([known - 0.5, image * known], dim=1), known)
        skips = [x]
        for conv in self.enc_conv:
            x, seen = conv(x, seen)
            skips.append(x)
        skips.pop()  # the transformer's input itself is not led on
        for layer in self.tran[:MASKED_LAYERS]:
            x, seen = layer(x, seen)
            skips.append(x)
        x, _ = self.tran[MIDDLE](x, None)
        x, style = self.mix_in_style(x, w, keep)
        for layer in self.tran[MIDDLE + 1 :]:
            x = layer(x, None)[0] + skips.pop()
        picture: Tensor | None = None
        for block in self.dec_conv:
            x, picture = block(x, picture, style, skips.pop())
        assert picture is not None
        return composite(image, known, picture)

    def mix_in_style(self, x: Tensor, w: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Deepest features with the random style in them, and the style for the way up."""
        w = self.ws_style(w)
        square = self.to_square(w).view(-1, 1, *x.shape[-2:])
        x = torch.lerp(square.expand_as(x), x, keep.transpose(1, 2).reshape(x.shape))
        of_features = self.to_style(self.down_conv(x).mean((2, 3)))
        return x, torch.cat([of_features, w], dim=1)


class EncoderBlock(nn.Module):
    """Two convolutions; the first changes the resolution, or reads pixels one by one."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, resample: str = "") -> None:
        super().__init__()
        self.conv0 = ScaledConv(inputs, outputs, side, resample)
        self.conv1 = ScaledConv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv1(self.conv0(x))
        return out


class ReduceToStyle(nn.Module):
    """Features to a style."""

    def __init__(self, config: MATConfig) -> None:
        super().__init__()
        channels = config.channels[-1]
        self.conv = nn.Sequential(
            *(ScaledConv(channels, channels, resample="down") for _ in range(config.picture_convs))
        )
        self.fc = ScaledLinear(channels, config.picture_style, active=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(x).mean((2, 3)))
        return out


class Synthesis(nn.Module):
    """Both stages. Attribute names are the published keys."""

    def __init__(self, config: MATConfig) -> None:
        super().__init__()
        self.first_stage = FirstStage(config)
        self.enc = nn.ModuleDict()
        inputs = 7
        for side, channels in zip(config.sides, config.channels, strict=True):
            shape = (1, "") if side == config.side else (3, "down")
            self.enc[f"EncConv_Block_{side}x{side}"] = EncoderBlock(inputs, channels, *shape)
            inputs = channels
        self.to_square = ScaledLinear(config.style, DEEPEST_SIDE**2, active=True)
        self.to_style = ReduceToStyle(config)
        self.dec = nn.ModuleDict()
        style = config.style + config.picture_style
        for side, channels in zip(config.sides[::-1], config.channels[::-1], strict=True):
            lowest = side == DEEPEST_SIDE
            noise_side = side if config.noise else 0
            self.dec[f"Dec_{side}x{side}"] = PaintBlock(inputs, channels, style, noise_side, lowest)
            inputs = channels

    def forward(self, image: Tensor, known: Tensor, w: Tensor, draws: Draws) -> Tensor:
        first = self.first_stage(image, known, w, draws.keep_tokens)
        x = torch.cat([known - 0.5, first, image * known], dim=1)
        skips = []
        for block in self.enc.values():
            x = block(x)
            skips.append(x)
        square = self.to_square(w).view(-1, 1, DEEPEST_SIDE, DEEPEST_SIDE)
        x = skips[-1] = torch.lerp(square.expand_as(x), x, draws.keep_features)
        style = torch.cat([w, self.to_style(x)], dim=1)
        # the lowest resolution has one layer with noise, the others have two
        noise = [None, *draws.noise] if draws.noise else [None] * (2 * len(self.dec))
        picture: Tensor | None = None
        for number, block in enumerate(self.dec.values()):
            maps = noise[2 * number : 2 * number + 2]
            x, picture = block(x, picture, style, skips.pop(), maps)
        assert picture is not None
        return composite(image, known, picture)


class MAT(nn.Module):
    """The generator: `mapping` and `synthesis`, as the published file has them."""

    def __init__(self, config: MATConfig) -> None:
        super().__init__()
        self.config = config
        self.synthesis = Synthesis(config)
        self.mapping = Mapping(config)

    def forward(self, image: Tensor, known: Tensor, draws: Draws, psi: float = 1.0) -> Tensor:
        """Fill a hole.

        Args:
            image: N x 3 x H x W, [-1, 1]; what lies in the hole is not looked at.
            known: N x 1 x H x W, 1 where the image is known, 0 in the hole.
            draws: the random numbers.
            psi: how far styles may lie from their mean; 1 leaves them where they are.

        Returns:
            Like `image`, with the known pixels in it.
        """
        out: Tensor = self.synthesis(image, known, self.mapping(draws.z, psi), draws)
        return out

    def constant_noise(self) -> list[Tensor]:
        """The noise maps stored in the file, in the order of `MATConfig.noise_sides`."""
        layers = [m for m in self.synthesis.dec.modules() if isinstance(m, StyledConv)]
        return [layer.get_buffer("noise_const") for layer in layers if self.config.noise]


def composite(image: Tensor, known: Tensor, picture: Tensor) -> Tensor:
    """The known pixels, and the picture in the hole."""
    return picture * (1 - known) + image * known
