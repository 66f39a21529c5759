"""What a checkpoint is, by the names and shapes of its tensors. Needs no torch.

One recogniser for each architecture. Each finds its own anchor, whatever stands before it
("generator.", "module.", "G_ema."), and says which tensors inference needs: those of that network
alone. Names are kept as they are, so that whatever reads the published file reads the rest too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Match:
    """A recognised network.

    Attributes:
        architecture: as in manifest.toml.
        about: for people.
        keep: the tensors that inference needs.
    """

    architecture: str
    about: str
    keep: tuple[str, ...]


def recognise(shapes: Shapes) -> Match | None:
    """The network in a file, or None if it is none that d2s knows."""
    for recogniser in RECOGNISERS:
        if (match := recogniser(shapes)) is not None:
            return match
    return None


def _prefix(shapes: Shapes, anchor: str, preferred: tuple[str, ...] = ()) -> str | None:
    """What stands before an anchor; where several do, a preferred one, else the shortest."""
    ends = [key for key in shapes if key == anchor or key.endswith("." + anchor)]
    prefixes = sorted((key.removesuffix(anchor) for key in ends), key=lambda p: (len(p), p))
    return next((p for p in preferred if p in prefixes), prefixes[0] if prefixes else None)


def _below(shapes: Shapes, prefix: str, *starts: str) -> tuple[str, ...]:
    wanted = tuple(prefix + start for start in starts) or (prefix,)
    return tuple(key for key in shapes if key.startswith(wanted))


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers a pattern with one group finds."""
    found = (re.match(pattern, key) for key in shapes)
    return len({match[1] for match in found if match})


def lama(shapes: Shapes) -> Match | None:
    """The Fourier network; its blocks tell big-lama (18) from the CelebA-HQ model (9)."""
    prefix = _prefix(shapes, "model.1.ffc.convl2l.weight", ("generator.",))
    if prefix is None:
        return None
    blocks = _count(shapes, re.escape(prefix) + r"model\.(\d+)\.conv1\.")
    return Match(f"lama-{blocks}", f"LaMa, {blocks} blocks", _below(shapes, prefix, "model."))


def mat(shapes: Shapes) -> Match | None:
    """The generator, of the average of the weights where a file has several."""
    anchor = "synthesis.first_stage.conv_first.conv.weight"
    prefix = _prefix(shapes, anchor, ("G_ema.",))
    if prefix is None:
        return None
    # the decoder has a block named after each side that it comes through
    blocks = re.compile(re.escape(prefix) + r"synthesis\.dec\.Dec_(\d{2,4})x")
    sides = [int(match[1]) for key in shapes if (match := blocks.match(key))]
    side = max(sides, default=0)
    return Match(f"mat-{side}", f"MAT at {side} pixels", _below(shapes, prefix))


def wavepaint(shapes: Shapes) -> Match | None:
    prefix = _prefix(shapes, "wavemodules.0.conv.0.weight")
    if prefix is None:
        return None
    shape = shapes[prefix + "wavemodules.0.conv.0.weight"]
    if len(shape) != 4:
        return None
    modules = _count(shapes, re.escape(prefix) + r"wavemodules\.(\d+)\.")
    about = f"WavePaint, {modules} modules, {shape[1]} input channels"
    return Match(f"wavepaint-{shape[1]}", about, _below(shapes, prefix, "wavemodules."))


def edgeconnect(shapes: Shapes) -> Match | None:
    """The edge network has spectral norm and three input channels, the other has four."""
    for anchor, channels, name in (
        ("encoder.1.weight_orig", 3, "edge"),
        ("encoder.1.weight", 4, "inpaint"),
    ):
        prefix = _prefix(shapes, anchor)
        if prefix is not None and shapes[prefix + anchor][1:] == (channels, 7, 7):
            keep = _below(shapes, prefix, "encoder.", "middle.", "decoder.")
            return Match(f"edgeconnect-{name}", f"EdgeConnect's {name} network", keep)
    return None


def diffir(shapes: Shapes) -> Match | None:
    """The network of stage 2; stage 1's has no denoiser."""
    prefix = _prefix(shapes, "denoise.resmlp.0.weight", ("generator.",))
    if prefix is None or f"{prefix}G.patch_embed.proj.weight" not in shapes:
        return None
    return Match("diffir", "DiffIR, stage 2", _below(shapes, prefix))


def palette(shapes: Shapes) -> Match | None:
    """Palette's UNet is told the noise level (cond_embed); the noise table's buffers are not
    needed."""
    prefix = _prefix(shapes, "cond_embed.0.weight")
    if prefix is None or f"{prefix}input_blocks.0.0.weight" not in shapes:
        return None
    return Match("palette", "Palette's UNet", _below(shapes, prefix))


def m2s(shapes: Shapes) -> Match | None:
    """guided-diffusion's UNet with learned sigma, of 4 or 6 levels."""
    prefix = _prefix(shapes, "time_embed.0.weight")
    if prefix is None or shapes.get(f"{prefix}input_blocks.0.0.weight", ())[1:2] != (3,):
        return None
    blocks = _count(shapes, re.escape(prefix) + r"input_blocks\.(\d+)\.")
    side = {8: 64, 12: 256}.get(blocks)
    if side is None or shapes.get(f"{prefix}out.2.weight", ())[:1] != (6,):
        return None
    return Match(f"m2s-{side}", f"M2S's network at {side} pixels", _below(shapes, prefix))


def ddnm(shapes: Shapes) -> Match | None:
    prefix = _prefix(shapes, "temb.dense.0.weight")
    if prefix is None or f"{prefix}conv_in.weight" not in shapes:
        return None
    return Match("ddnm", "DDPM's UNet, as DDNM uses it", _below(shapes, prefix))


def inception(shapes: Shapes) -> Match | None:
    """FID's own Inception has 1008 classes; torchvision's has 1000 and gives other features."""
    prefix = _prefix(shapes, "Conv2d_1a_3x3.conv.weight")
    if prefix is None or shapes.get(f"{prefix}fc.weight") != (1008, 2048):
        return None
    keep = tuple(k for k in _below(shapes, prefix) if not k.endswith("num_batches_tracked"))
    return Match("inception-fid", "Inception network of FID", keep)


def lpips_heads(shapes: Shapes) -> Match | None:
    prefix = _prefix(shapes, "lin0.model.1.weight")
    if prefix is None:
        return None
    channels = shapes.get(f"{prefix}lin1.model.1.weight", ())[1:2]
    name = "alex" if channels == (192,) else "vgg" if channels == (128,) else None
    if name is None:
        return None
    return Match(f"lpips-{name}", f"LPIPS heads ({name})", _below(shapes, prefix, "lin"))


def trunks(shapes: Shapes) -> Match | None:
    """torchvision's AlexNet and VGG-16, of which LPIPS takes the convolutions."""
    for architecture, first, last, shape in (
        ("alexnet", (64, 3, 11, 11), "features.10.weight", (256, 256, 3, 3)),
        ("vgg16", (64, 3, 3, 3), "features.28.weight", (512, 512, 3, 3)),
    ):
        deeper = any(key.startswith("features.30.") for key in shapes)
        if shapes.get("features.0.weight") == first and shapes.get(last) == shape and not deeper:
            about = f"{architecture}'s convolutions"
            return Match(architecture, about, _below(shapes, "", "features."))
    return None


RECOGNISERS: tuple[Callable[[Shapes], Match | None], ...] = (
    *(lama, mat, wavepaint, edgeconnect, diffir, palette, m2s, ddnm),
    *(inception, lpips_heads, trunks),
)
