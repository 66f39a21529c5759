"""The network of the guide `neural`: it corrects a first candidate for the hole.

PatchMatch copies real texture but cannot finish a roof line; a smooth fill has the right colours
and, where another such network made it, simple edges. The network sees both with the hole, decides
pixel by pixel which to trust, and adds what both lack. Fast Fourier convolutions (Chi et al. 2020,
as LaMa uses them) at an eighth of the resolution let every pixel see the whole window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_GROUPS = 8
#: how much the candidate is trusted before anything is learned: sigmoid of this
FIRST_TRUST = 3.0
UPSAMPLING = ("bilinear", "nearest")


@dataclass(frozen=True)
class FillConfig:
    """Shape of the network.

    Attributes:
        widths: channels at a half, a quarter and an eighth of the resolution; multiples of 8.
        blocks: Fourier blocks at an eighth.
        upsampling: on the way back to the full resolution, "bilinear" or "nearest". Nearest pixels
            let the squares of an eighth show as a mosaic where the network adds texture. "bilinear"
            also smooths what leaves the network over 3 x 3 pixels (1-2-1), which removes the grid
            of two pixels that unfolding leaves in flat places (Sugawara et al. 2018).

    Raises:
        ValueError: there is no such upsampling.
    """

    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: int = 8
    upsampling: str = "bilinear"

    def __post_init__(self) -> None:
        if self.upsampling not in UPSAMPLING:
            raise ValueError(f"upsampling {self.upsampling!r} is none of {', '.join(UPSAMPLING)}")

    @property
    def size_multiple(self) -> int:
        return 8


class ConvBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.GroupNorm(NORM_GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
            *(nn.GroupNorm(NORM_GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
        )
        nn.init.zeros_(self.body[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class FourierBlock(nn.Module):
    """x + local convolution + pointwise convolution of the spectrum of half of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.norm = nn.GroupNorm(NORM_GROUPS, width)
        self.local = nn.Conv2d(width, width, 3, padding=1)
        self.reduce = nn.Conv2d(width, half, 1)
        self.spectrum = nn.Conv2d(2 * half, 2 * half, 1)
        self.mix = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, width + half),
            nn.SiLU(),
            nn.Conv2d(width + half, width, 3, padding=1),
        )
        nn.init.zeros_(self.mix[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm(x))
        out: Tensor = x + self.mix(torch.cat([self.local(h), self._seen_whole(h)], 1))
        return out

    def _seen_whole(self, h: Tensor) -> Tensor:
        # spectra of 16-bit numbers overflow, and few devices have the transform for them
        reduced = self.reduce(h)
        waves = torch.fft.rfft2(reduced.float(), norm="ortho")
        stacked = self.spectrum(torch.cat([waves.real, waves.imag], 1).to(reduced.dtype))
        real, imaginary = F.silu(stacked).float().chunk(2, 1)
        size = (int(h.shape[-2]), int(h.shape[-1]))
        back = torch.fft.irfft2(torch.complex(real, imaginary), s=size, norm="ortho")
        same: Tensor = back.to(reduced.dtype)
        return same


class FillNetwork(nn.Module):
    """Candidate, smooth fill and hole to a fill."""

    def __init__(self, config: FillConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        self.upsampling = config.upsampling
        self.enter = nn.Conv2d(4 * 7, fine, 3, padding=1)
        self.fine_in = ConvBlock(fine)
        self.down_1 = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle_in = ConvBlock(middle)
        self.down_2 = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(FourierBlock(coarse) for _ in range(config.blocks)))
        self.up_2 = nn.Conv2d(coarse, middle, 1)
        self.middle_out = ConvBlock(middle)
        self.up_1 = nn.Conv2d(middle, fine, 1)
        self.fine_out = ConvBlock(fine)
        self.leave = nn.Conv2d(fine, 4 * 4, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, candidate: Tensor, smooth: Tensor, hole: Tensor) -> Tensor:
        """A fill, N x 3 x H x W, equal to `candidate` outside of the hole; not clipped.

        Args:
            candidate: known pixels, and a first result in the hole; N x 3 x H x W in [-1, 1].
            smooth: known pixels, and a smooth fill of the hole (smooth_fill.py).
            hole: N x 1 x H x W, 0 or 1. Height and width are multiples of 8.
        """
        x = F.pixel_unshuffle(torch.cat([candidate, smooth, 2 * hole - 1], 1), 2)
        fine = self.fine_in(self.enter(x))
        middle = self.middle_in(self.down_1(fine))
        h = self.coarse(self.down_2(middle))
        h = self.middle_out(middle + self._twice(self.up_2(h)))
        h = self.fine_out(fine + self._twice(self.up_1(h)))
        out = F.pixel_shuffle(self.leave(h), 2).float()
        if self.upsampling == "bilinear":
            out = _smoothed(out)
        trust = torch.sigmoid(out[:, :1] + FIRST_TRUST)
        fill = trust * candidate + (1 - trust) * smooth + out[:, 1:]
        return torch.where(hole > 0, fill, candidate)

    def _twice(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode=self.upsampling)


def _smoothed(x: Tensor) -> Tensor:
    """Means over 3 x 3 pixels with weights 1-2-1 each way; nothing with a period of two is left."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
