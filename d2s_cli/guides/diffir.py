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

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.errors import WeightsError
from d2s_cli.guides.diffir_network import COEFFICIENTS, DiffIR, DiffIRConfig
from d2s_cli.guides.network import (
    NetworkGuide,
    below,
    count_items,
    draw_normal,
    fit,
    read_files,
    recognising,
    seeded_noise,
)

Draw = Callable[[tuple[int, ...]], Tensor]


class DiffIRGuide(NetworkGuide):
    """DiffIR as a guide.

    Attributes:
        network: the networks; `network(masked, noise)` and `network.prior(masked, noise)` run them
            with a given start of the prior.
    """

    def __init__(self, network: DiffIR, device: torch.device, noise: Draw | None) -> None:
        super().__init__(device)
        self.network = network
        self._noise = noise

    def predict(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        masked = torch.cat([(image / 2 + 0.5) * (1 - hole), hole], dim=1)
        length = self.network.config.prior
        if self._noise is None:
            noise = draw_normal(seeded_noise(seed, len(image)), (length,))
        else:
            noise = self._noise((len(image), length))
        predicted: Tensor = self.network(masked, noise.to(masked))
        return predicted * 2 - 1


def config_from_tensors(tensors: Mapping[str, Tensor]) -> DiffIRConfig:
    """Sizes of the networks, read off the tensors (without the prefix "generator.").

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    down = [*(f"G.encoder_level{level}." for level in (1, 2, 3)), "G.latent."]
    up = [f"G.decoder_level{level}." for level in (1, 2, 3)]
    blocks = [f"{level}0." for level in down]
    return DiffIRConfig(
        width=len(tensors["G.patch_embed.proj.weight"]),
        encoder=tuple(count_items(tensors, level) for level in down),
        decoder=tuple(count_items(tensors, level) for level in up),
        heads=tuple(len(tensors[b + "attn.temperature"]) for b in blocks),
        hidden=tuple(tensors[b + "ffn.project_out.weight"].shape[1] for b in blocks),
        bias="G.output.bias" in tensors,
        norm_bias=blocks[0] + "norm1.body.bias" in tensors,
        input_skip="G.skip_conv.weight" in tensors,
        prior=tensors[blocks[0] + "attn.kernel.0.weight"].shape[1],
        describer=len(tensors["condition.E.0.weight"]),
        describer_blocks=sum(
            name.startswith("condition.E.") and name.endswith(".body.0.weight") for name in tensors
        ),
        denoiser_layers=max(0, count_items(tensors, "denoise.resmlp.") - 2),
        steps=len(tensors[f"diffusion.{COEFFICIENTS[0]}"]),
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


def load(paths: Sequence[Path], device: torch.device, noise: Draw | None = None) -> DiffIRGuide:
    """Read the published checkpoint.

    Args:
        paths: one file, `last.ckpt` of the second stage; or its state dict alone.
        device: where the network runs.
        noise: called with the shape (N, length of the prior) in place of the seeded generator, to
            replay a run.

    Raises:
        WeightsError: the file is none of DiffIR's second stage.
    """
    tensors = generator_tensors(paths[0], read_files(paths))
    expected = "generator.G.*, generator.condition.*, generator.denoise.*, generator.diffusion.*"
    with recognising(paths[0], "DiffIR of the second stage", expected, tensors):
        config = config_from_tensors(tensors)
    with torch.device("meta"):
        network = DiffIR(config)
    fit(network, tensors, paths[0], device)
    return DiffIRGuide(network, device, noise)
