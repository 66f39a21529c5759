"""Files of correcting networks, as `d2s train --model guide` leaves them.

One file holds the network and, where it has one, the smoother whose fills it sees, with their
shapes in the header.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2s_cli.errors import WeightsError
from d2s_cli.guides.fill_network import FillConfig, FillNetwork
from d2s_cli.guides.network import fit
from d2s_cli.weights.bundled import bundled_guide
from d2s_cli.weights.reading import read_weights, write_safetensors

ARCHITECTURE = "fill"
#: the smoother's tensors have names with this before them
SMOOTHER = "smoother."


@dataclass(frozen=True)
class FillNetworks:
    """What a file holds.

    Attributes:
        network: corrects first results.
        smoother: makes the smooth fill that `network` sees (smooth_fill.py); None is `push_pull`.
    """

    network: FillNetwork
    smoother: FillNetwork | None


def find_fill_file(name_or_path: str | Path) -> Path:
    """The file of the bundled guide, by its name, or the file itself.

    Raises:
        WeightsError: neither.
    """
    path = next(iter(bundled_guide(str(name_or_path))), Path(name_or_path))
    if not path.is_file():
        raise WeightsError(
            f"no guide at {path}",
            "give a guide.safetensors of d2s train, or neural, the bundled one",
        )
    return path


def read_fill_networks(path: Path, device: torch.device) -> FillNetworks:
    """Read a file, ready to fill holes.

    Raises:
        WeightsError: missing, damaged, or of another kind.
    """
    tensors, header = read_weights(path)
    if header.get("architecture") != ARCHITECTURE:
        raise WeightsError(f"{path} is no guide made by d2s", "d2s train --model guide makes one")
    ours = {k: v for k, v in tensors.items() if not k.startswith(SMOOTHER)}
    theirs = {k.removeprefix(SMOOTHER): v for k, v in tensors.items() if k.startswith(SMOOTHER)}
    network = _network(header.get("network"), ours, path, device)
    if "smoother" not in header and not theirs:
        return FillNetworks(network, None)
    return FillNetworks(network, _network(header.get("smoother"), theirs, path, device))


def fill_config(shape: Any) -> FillConfig:
    """The shape of a network, from JSON.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is none.
    """
    upsampling = shape.get("upsampling", "nearest")  # files of before there was a choice
    return FillConfig(tuple(shape["widths"]), int(shape["blocks"]), upsampling)


def _network(
    shape: Any, tensors: Mapping[str, Tensor], path: Path, device: torch.device
) -> FillNetwork:
    try:
        config = fill_config(shape)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} has a header that d2s cannot read: {error}") from error
    with torch.device("meta"):
        network = FillNetwork(config)
    fit(network, tensors, path, device)
    return network


def write_fill_networks(
    path: Path,
    network: FillConfig,
    tensors: Mapping[str, Tensor],
    smoother: FillNetwork | None,
    about: dict[str, Any],
) -> None:
    """Write a file, in half precision; the name appears when it is whole.

    Args:
        network: shape of the network that `tensors` belong to.
        about: for people, into the header.
    """
    header = {"architecture": ARCHITECTURE, "network": dataclasses.asdict(network), "about": about}
    tensors = dict(tensors)
    if smoother is not None:
        header["smoother"] = dataclasses.asdict(smoother.config)
        tensors |= {SMOOTHER + name: value for name, value in smoother.state_dict().items()}
    write_safetensors(path, tensors, header, torch.float16)
