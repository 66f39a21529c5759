"""DiffIR, second stage, for inpainting (Xia et al., "DiffIR: Efficient Diffusion Model for Image
Restoration", ICCV 2023).

A transformer fills the hole in one pass; a short vector, the prior, steers each of its blocks. The
prior is what a diffusion of a few steps makes of a random vector and of a description of the
picture. That vector is the only chance in it; here it comes from the seed.

The network takes RGB in [0, 1] with zeros in the hole, and as fourth channel the hole (1 = hole);
any size in multiples of 8.

The published file is a checkpoint of Lightning 1.2.9 with the networks under "generator."; beside
them lie the first stage, discriminators and losses, which filling does not need. The large variant
for Places2 has the same names: every size is read off the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.errors import WeightsError
from d2s_cli.guides.diffir_network import COEFFICIENTS, DiffIR, DiffIRConfig
from d2s_cli.guides.network import (
    NetworkGuide,
    NoiseSource,
    below,
    count_items,
    fit,
    for_each,
    length,
    read_files,
    recognising,
    seeded_source,
)


class DiffIRGuide(NetworkGuide):
    """DiffIR as a guide.

    Args:
        network: the networks; `network(masked, noise)` runs them from a given start of the prior.
        device: where they are.
    """

    def __init__(self, network: DiffIR, device: torch.device) -> None:
        super().__init__(device)
        self.network = network

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.sample(image, hole, seeds)

    def sample(
        self,
        image: Tensor,
        hole: Tensor,
        seed: int | Sequence[int] = 0,
        noise: NoiseSource | None = None,
    ) -> Tensor:
        """Fill pictures whose sides are multiples of 8.

        Args:
            image: N x 3 x H x W, [-1, 1]; what lies in the hole is not looked at.
            hole: N x 1 x H x W, 0 or 1.
            seed: decides the start of the prior; one for all, or one for each.
            noise: called once, with the shape (N, length of the prior), in place of the seeded
                numbers, to replay a run.

        Returns:
            Like `image`; not yet clipped, and with the network's view of the known pixels.
        """
        masked = torch.cat([(image + 1) / 2 * (1 - hole), hole], dim=1)
        source = noise or seeded_source(for_each(seed, len(image)))
        start = source((len(image), self.network.config.prior)).to(masked)
        predicted: Tensor = self.network(masked, start)
        return predicted * 2 - 1


def config_from_tensors(tensors: Mapping[str, Tensor]) -> DiffIRConfig:
    """Sizes of the networks, read off the tensors (without the prefix "generator.").

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    down = [*(f"G.encoder_level{level}." for level in (1, 2, 3)), "G.latent."]
    up = [f"G.decoder_level{level}." for level in (1, 2, 3)]
    blocks = [f"{level}0." for level in down]
    residual = {k for k in tensors if k.startswith("condition.E.") and k.endswith(".body.0.weight")}
    return DiffIRConfig(
        width=length(tensors, "G.patch_embed.proj.weight"),
        encoder=tuple(count_items(tensors, level) for level in down),
        decoder=tuple(count_items(tensors, level) for level in up),
        heads=tuple(length(tensors, b + "attn.temperature") for b in blocks),
        hidden=tuple(length(tensors, b + "ffn.project_out.weight", 1) for b in blocks),
        bias="G.output.bias" in tensors,
        norm_bias=blocks[0] + "norm1.body.bias" in tensors,
        input_skip="G.skip_conv.weight" in tensors,
        prior=length(tensors, blocks[0] + "attn.kernel.0.weight", 1),
        describer=length(tensors, "condition.E.0.weight"),
        describer_blocks=len(residual),
        denoiser_layers=max(0, count_items(tensors, "denoise.resmlp.") - 1),
        steps=length(tensors, f"diffusion.{COEFFICIENTS[0]}"),
    )


def generator_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that filling needs, without the prefix.

    Left out are the noise table's other columns, and "diffusion.model" and "diffusion.condition",
    which are second names of "denoise" and "condition".

    Raises:
        WeightsError: the file is that of the first stage.
    """
    own = below(tensors, "generator.") or dict(tensors)
    if "G.output.weight" in own and not below(own, "denoise."):
        raise WeightsError(
            f"{path} is the first stage of DiffIR, which needs the true picture to fill a hole",
            "use the second stage's file: DiffIRS2-.../models/last.ckpt",
        )
    kept = {f"diffusion.{name}" for name in COEFFICIENTS}
    return {k: v for k, v in own.items() if k in kept or not k.startswith("diffusion.")}


def load(paths: Sequence[Path], device: torch.device) -> DiffIRGuide:
    """Read the published checkpoint.

    Args:
        paths: one file, `last.ckpt` of the second stage; or its state dict alone.
        device: where the network runs.

    Raises:
        WeightsError: the file is none of DiffIR's second stage.
    """
    tensors = generator_tensors(paths[0], read_files(paths))
    expected = "generator.G.*, generator.condition.*, generator.denoise.*, generator.diffusion.*"
    with recognising(paths[0], "DiffIR of the second stage", expected, tensors):
        config = config_from_tensors(tensors)
    if any((config.width << level) % heads for level, heads in enumerate(config.heads)):
        raise WeightsError(
            f"{paths[0]} holds no DiffIR of the second stage: {config.width} channels and their"
            f" doubles do not divide among {config.heads} attention heads"
        )
    with torch.device("meta"):
        network = DiffIR(config)
    fit(network, tensors, paths[0], device)
    return DiffIRGuide(network, device)
