"""EdgeConnect: first the edges that the hole should have, then the picture along them.

Nazeri et al., "EdgeConnect: Structure Guided Image Inpainting using Adversarial Edge Learning",
ICCV workshops 2019. Two networks of one build (convolutions down, dilated residual blocks,
transposed convolutions up, instance norms): the first draws edges in the hole from the grey picture
and the edges of its known part, the second paints from the picture and the drawn edges. No
randomness.

Both take pictures in [0, 1] with ones in the hole; the hole is a channel of its own for the first
network alone. The drawn edges go on as they are, soft and for the whole picture. The published code
reads 8-bit pictures, so edges are found on 8-bit greys, by the Canny of scikit-image (see
`canny.py`, which gives the same pixels without that package).

Files: `EdgeModel_gen.pth` and `InpaintingModel_gen.pth`, each a dictionary with a state dict under
"generator". The first network's weights are stored before spectral normalisation, with the two
vectors that give the norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.canny import canny
from d2s_cli.guides.network import (
    NetworkGuide,
    below,
    count_items,
    fit,
    length,
    read_files,
    recognising,
    some_names,
)
from d2s_cli.images.convert import from_unit_range

#: the first convolution, before or after spectral normalisation
STEM = "encoder.1.weight"
#: of the published files
EDGE_FILE, INPAINT_FILE = "EdgeModel", "InpaintingModel"
BOTH = f"{EDGE_FILE}_gen.pth and {INPAINT_FILE}_gen.pth"
#: shares of red, green and blue in a grey
GREY = np.array([0.2125, 0.7154, 0.0721])
#: of the smoothing, in pixels; with more there are no edges left
LARGEST_SIGMA = 50

Found = dict[str, tuple[Path, dict[str, Tensor]]]


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of one of the two networks.

    Attributes:
        given: channels that it takes.
        made: channels that it gives: 1 for edges, 3 for a picture.
        widths: channels at the picture's own size and after each halving.
        blocks: residual blocks in the middle.
        biases: whether their convolutions have biases.
    """

    given: int
    made: int
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: int = 8
    biases: bool = True


def config_from_tensors(tensors: Mapping[str, Tensor]) -> GeneratorConfig:
    """Sizes of a network from its tensors, by their names from "encoder." on.

    Raises:
        KeyError: a tensor that tells a size is missing.
    """
    halvings = count_items(tensors, "encoder.") - 1
    return GeneratorConfig(
        given=length(tensors, STEM, axis=1),
        made=length(tensors, f"decoder.{3 * halvings + 1}.weight"),
        widths=tuple(length(tensors, f"encoder.{3 * i + 1}.weight") for i in range(halvings + 1)),
        blocks=count_items(tensors, "middle."),
        biases="middle.0.conv_block.1.bias" in tensors,
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, the first one dilated, and what went in."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(2),
            nn.Conv2d(width, width, 3, dilation=2, bias=bias),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


class Generator(nn.Module):
    """N x given x H x W to N x made x H x W in [0, 1]. Height and width are multiples of 2 to the
    number of halvings."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = config.widths
        down: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(config.given, widths[0], 7)]
        down += [nn.InstanceNorm2d(widths[0]), nn.ReLU()]
        for n_in, n_out in pairwise(widths):
            down.append(nn.Conv2d(n_in, n_out, 4, stride=2, padding=1))
            down += [nn.InstanceNorm2d(n_out), nn.ReLU()]
        up: list[nn.Module] = []
        for n_in, n_out in pairwise(widths[::-1]):
            up.append(nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1))
            up += [nn.InstanceNorm2d(n_out), nn.ReLU()]
        up += [nn.ReflectionPad2d(3), nn.Conv2d(widths[0], config.made, 7)]
        self.encoder = nn.Sequential(*down)
        self.middle = nn.Sequential(
            *(ResidualBlock(widths[-1], config.biases) for _ in range(config.blocks))
        )
        self.decoder = nn.Sequential(*up)
        self.gives_edges = config.made == 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.decoder(self.middle(self.encoder(x)))
        return x.sigmoid() if self.gives_edges else (x.tanh() + 1) / 2


class EdgeConnect(NetworkGuide):
    """The guide.

    Attributes:
        edges: the first network; takes grey picture, edges and hole (see `draw_edges`).
        painter: the second; takes a picture and drawn edges (see `paint`).
        sigma: of the smoothing before edges are looked for.
    """

    def __init__(
        self, edges: Generator, painter: Generator, halvings: int, sigma: float, device: Any
    ) -> None:
        super().__init__(device)
        self.edges, self.painter, self.sigma = edges, painter, sigma
        self.multiple = 2**halvings
        # mirrored borders: two pixels at the smallest size, three at the picture's own
        self.smallest = max(4, 3 * self.multiple)

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        grey, edges = self.find_edges(image, hole)
        return 2 * self.paint((image + 1) / 2, hole, self.draw_edges(grey, edges, hole)) - 1

    def find_edges(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """Grey picture in [0, 1] and the edges of its known part, 0 or 1, each N x 1 x H x W."""
        greys = [grey_of(picture) for picture in from_unit_range(image)]
        known = hole[:, 0].cpu().numpy() < 0.5
        edges = [canny(g, k, self.sigma) for g, k in zip(greys, known, strict=True)]
        grey, edge = (torch.from_numpy(np.stack(x))[:, None].to(image) for x in (greys, edges))
        return grey, edge

    def draw_edges(self, grey: Tensor, edges: Tensor, hole: Tensor) -> Tensor:
        """Edges of the whole picture, soft, N x 1 x H x W in [0, 1]."""
        known = 1 - hole
        out: Tensor = self.edges(torch.cat([grey * known + hole, edges * known, hole], dim=1))
        return out

    def paint(self, picture: Tensor, hole: Tensor, edges: Tensor) -> Tensor:
        """The picture, N x 3 x H x W in [0, 1], painted along the edges."""
        out: Tensor = self.painter(torch.cat([picture * (1 - hole) + hole, edges], dim=1))
        return out


def grey_of(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 H x W x 3 to greys in [0, 1], as scikit-image rounds them."""
    grey: NDArray[np.float64] = (picture * (1 / 255)) @ GREY
    return grey


def networks_in(path: Path) -> Found:
    """The networks of a file by what they give, "edges" or "picture", spectral norm applied.

    Raises:
        WeightsError: the file is unreadable, or has a network that is neither.
    """
    tensors = read_files([path])
    stems = [k.removesuffix("_orig") for k in tensors]
    prefixes = {k.removesuffix(STEM) for k in stems if f".{k}".endswith(f".{STEM}")}
    found: Found = {}
    for prefix in sorted(prefixes, key=len):
        state = normalised(below(tensors, prefix), path)
        with recognising(path, "network of EdgeConnect", STEM, tensors):
            config = config_from_tensors(state)
        role = {(3, 1): "edges", (4, 3): "picture"}.get((config.given, config.made))
        if role is None:
            raise WeightsError(
                f"{path} holds a network from {config.given} to {config.made} channels;"
                " EdgeConnect's are from 3 to 1 and from 4 to 3"
            )
        found.setdefault(role, (path, state))
    return found


def normalised(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights divided by their spectral norm, as the stored vectors give it.

    Raises:
        WeightsError: a vector does not fit its weight.
    """
    plain = {k: v for k, v in state.items() if not k.endswith(("_orig", "_u", "_v"))}
    for key in (k.removesuffix("_orig") for k in state if k.endswith(".weight_orig")):
        if key in plain:  # PyTorch 0.4 stored the divided weight
            continue
        parts = (state.get(key + end, torch.empty(0)) for end in ("_orig", "_u", "_v"))
        weight, u, v = (part.float() for part in parts)
        # transposed convolutions have their output channels second
        first = 1 if is_transposed(key) else 0
        matrix = weight.movedim(first, 0).flatten(1) if weight.ndim == 4 else weight
        if weight.ndim != 4 or (*u.shape, *v.shape) != tuple(matrix.shape):
            raise WeightsError(
                f"{path}: {key}_u {list(u.shape)} and {key}_v {list(v.shape)} do not fit"
                f" {key}_orig {list(weight.shape)}"
            )
        plain[key] = weight / torch.dot(u, matrix @ v)
    return plain


def is_transposed(key: str) -> bool:
    """Whether a weight belongs to a transposed convolution: the decoder's first, fourth, ..."""
    room, _, rest = key.partition(".")
    number = rest.partition(".")[0]
    return room == "decoder" and number.isdigit() and int(number) % 3 == 0


def partner_of(path: Path) -> Path | None:
    """The other published file beside one of the two, if it is there."""
    for one, other in ((EDGE_FILE, INPAINT_FILE), (INPAINT_FILE, EDGE_FILE)):
        beside = path.with_name(path.name.replace(one, other))
        if beside != path and beside.is_file():
            return beside
    return None


def find_networks(paths: Sequence[Path]) -> Found:
    """Both networks, from files in any order; others, such as the discriminators, are passed over.

    Raises:
        WeightsError: a network is missing, or two files give the same one.
    """
    found: Found = {}
    for path in paths:
        here = networks_in(path)
        if twice := sorted(found.keys() & here.keys()):
            raise WeightsError(
                f"{found[twice[0]][0]} and {path} both hold the network that gives {twice[0]}",
                f"give the two files that belong together: {BOTH}",
            )
        found |= here
    if len(found) == 1 and len(paths) == 1 and (beside := partner_of(paths[0])):
        return find_networks([*paths, beside])
    if missing := sorted({"edges", "picture"} - found.keys()):
        held = "" if found else some_names(read_files(paths[:1])) + "\n"
        raise WeightsError(
            f"no network of EdgeConnect that gives {' or '.join(missing)} in"
            f" {', '.join(map(str, paths))}",
            f"{held}it has two: give {BOTH}, or their folder",
        )
    return found


def load(paths: Sequence[Path], device: torch.device, sigma: float = 2.0) -> EdgeConnect:
    """Read the two published files, or one of them whose partner lies beside it.

    Args:
        paths: the files in any order.
        device: where the networks run.
        sigma: of the smoothing before edges are looked for.

    Raises:
        UsageError: sigma is no number that makes sense.
        WeightsError: a network is missing, twice there, or of another structure.
    """
    # what is typed after --guide-option may be text
    if not isinstance(sigma, int | float) or not 0 < sigma <= LARGEST_SIGMA:
        raise UsageError(
            f"sigma of guide edgeconnect is a number above 0, at most {LARGEST_SIGMA}, not {sigma}"
        )
    found = find_networks(paths)
    made: dict[str, Generator] = {}
    halvings: set[int] = set()
    for role, (path, state) in found.items():
        config = config_from_tensors(state)
        halvings.add(len(config.widths) - 1)
        with torch.device("meta"):
            made[role] = Generator(config)
        fit(made[role], state, path, device)
    return EdgeConnect(made["edges"], made["picture"], max(halvings), sigma, device)
