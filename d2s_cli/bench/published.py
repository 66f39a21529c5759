"""The published implementation's way of computing, on our weights: what `d2s bench` compares with.

Same network, same numbers; written as the published code runs it: float32, channels outermost, one
noise level at a time and embedded anew for every layer, activations as products, attention by
explicit scores, the encoder run twice one after the other, every step of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import AttentionBlock, ResidualBlock, Stage, UNet


def published_copy(unet: UNet) -> UNet:
    """The network with float32 weights, channels outermost."""
    copy = UNet(unet.config)
    copy.load_state_dict({k: v.float().contiguous() for k, v in unet.state_dict().items()})
    copy.eval().requires_grad_(False)
    return copy.to(next(unet.parameters()).device)


def _swish(x: Tensor) -> Tensor:
    product: Tensor = x * torch.sigmoid(x)
    return product


def _residual(block: ResidualBlock, x: Tensor, embedding: Tensor) -> Tensor:
    norm, _, conv = block.in_layers
    h = conv(block._resample(_swish(norm(x.float()).type(x.dtype))))
    shift_scale = block.emb_layers[1](_swish(embedding))[..., None, None]
    scale, shift = torch.chunk(shift_scale, 2, dim=1)
    norm, _, dropout, conv = block.out_layers
    h = norm(h.float()).type(h.dtype) * (1 + scale) + shift
    h = conv(dropout(_swish(h)))
    out: Tensor = block.skip_connection(block._resample(x)) + h
    return out


def _attention(block: AttentionBlock, x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    flat = x.reshape(n, channels, -1)
    qkv = block.qkv(block.norm(flat)).reshape(n * block.heads, 3 * channels // block.heads, -1)
    q, k, v = qkv.split(channels // block.heads, dim=1)
    factor = 1 / math.sqrt(math.sqrt(channels // block.heads))
    scores = torch.softmax(torch.einsum("bct,bcs->bts", q * factor, k * factor), dim=-1)
    merged = torch.einsum("bts,bcs->bct", scores, v).reshape(n, channels, -1)
    projected: Tensor = block.proj_out(merged)
    return (flat + projected).reshape(n, channels, height, width)


def _stage(stage: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    assert isinstance(stage, Stage)
    for layer in stage:
        if isinstance(layer, ResidualBlock):
            x = _residual(layer, x, embedding)
        elif isinstance(layer, AttentionBlock):
            x = checkpoint(_attention, layer, x, use_reentrant=False)
        else:
            x = layer(x)
    return x


def _encode(unet: UNet, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = F.pixel_unshuffle(x, unet.config.unshuffle) if unet.config.unshuffle > 1 else x
    skips = []
    for stage in unet.input_blocks:
        h = _stage(stage, h, embedding)
        skips.append(h)
    return h, skips


def _mixed(a: Tensor, b: Tensor) -> Tensor:
    half = a.shape[1] // 2
    return torch.cat([a[:, :half], b[:, half:]], dim=1)


def predict_injected(
    unet: UNet, condition: Tensor, x_t: Tensor, guide_t: Tensor, alpha_bar: Tensor
) -> Tensor:
    """Eq. 15 to 17, one encoder run after the other; arguments as Refiner.predict."""
    embedding = unet.embed(alpha_bar)
    state, skips = _encode(unet, torch.cat([condition, x_t], 1), embedding)
    guide, _ = _encode(unet, torch.cat([condition, guide_t], 1), unet.embed(alpha_bar))
    from_guide = _stage(unet.middle_block, guide, embedding)
    h = _mixed(_stage(unet.middle_block, _mixed(state, guide), embedding), from_guide)
    for stage in unet.output_blocks:
        h = _stage(stage, torch.cat([h, skips.pop()], dim=1), embedding)
    norm, _, conv = unet.out
    h = conv(_swish(norm(h)))
    return F.pixel_shuffle(h, unet.config.unshuffle) if unet.config.unshuffle > 1 else h


@torch.no_grad()
def refine_as_published(
    unet: UNet,
    prediction: str,
    image: Tensor,
    hole: Tensor,
    guide: Tensor,
    levels: Sequence[int],
    table: NoiseTable,
) -> Tensor:
    """Ancestral steps of the table from the guide, with injection; one network call a step.

    Args:
        unet: from `published_copy`.
        prediction: "eps" or "v".
        image, hole, guide: as Refiner.refine.
        levels: steps of the table to run, falling.
        table: the noise table.
    """
    gammas = torch.tensor([1.0, *table.alpha_bar], dtype=torch.float32, device=image.device)
    condition = image * (1 - hole) + hole * torch.randn_like(image)
    first = gammas[levels[0]]
    x = first.sqrt() * guide + (1 - first).sqrt() * torch.randn_like(guide)
    x = x * hole + image * (1 - hole)
    for t in levels:
        now, after = gammas[t].reshape(1, 1), gammas[t - 1].reshape(1, 1)
        guide_t = now.sqrt() * guide + (1 - now).sqrt() * torch.randn_like(guide)
        guide_t = guide_t * hole + image * (1 - hole)
        level = gammas[t].expand(len(image))
        out = predict_injected(unet, condition, x, guide_t, level)
        a, s = now.sqrt(), (1 - now).sqrt()
        x_0 = (x - s * out) / a if prediction == "eps" else a * x - s * out
        x_0 = x_0.clamp(-1, 1)
        alpha = now / after
        mean = after.sqrt() * (1 - alpha) / (1 - now) * x_0
        mean = mean + alpha.sqrt() * (1 - after) / (1 - now) * x
        noise = torch.randn_like(x) if t > 1 else torch.zeros_like(x)
        x = mean + ((1 - alpha) * (1 - after) / (1 - now)).sqrt() * noise
        x = x * hole + image * (1 - hole)
    return x
