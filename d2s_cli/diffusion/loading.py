"""Refiners from files: ours, and published Palette checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.unet import UNet, UNetConfig, config_from_state_dict
from d2s_cli.errors import WeightsError
from d2s_cli.runtime import Compute, channels_last, pick, store_as_computed
from d2s_cli.weights.bundled import find_weights
from d2s_cli.weights.reading import check_fit, read_weights


def load_refiner(
    name_or_path: str | Path = "d2s-base",
    device: str = "cpu",
    precision: str = "fp32",
    compute: Compute | None = None,
) -> Refiner:
    """Load a refiner: a bundled name, our safetensors, or a published Palette checkpoint.

    Args:
        name_or_path: a name of the bundled weights, or a `.safetensors`, `.pth` or `.pt` file.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16 or fp16.
        compute: device and format already picked, instead of the two above.

    Raises:
        WeightsError: no such weights, a damaged file, or one that does not fit (the message says
            which keys and shapes differ).
        DeviceError: the device is not there.
    """
    compute = compute or pick(device, precision)
    path = find_weights(name_or_path)
    tensors, header = read_weights(path)
    state = network_tensors(tensors)
    try:
        if header:
            config = RefinerConfig.from_json(header)
        else:
            config = RefinerConfig(unet=config_from_state_dict(state))
        check_sizes(config.unet)
        with torch.device("meta"):
            unet = UNet(config.unet)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path} describes no network that can be built: {error}",
            "it is damaged, or no refiner's weights",
        ) from error
    check_fit(path, {k: tuple(v.shape) for k, v in unet.state_dict().items()}, state)
    unet.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    unet.eval().requires_grad_(False)
    unet.to(compute.device)
    channels_last(unet)
    store_as_computed(unet, compute)
    return Refiner(unet, config, compute, name=path.stem)


def check_sizes(unet: UNetConfig) -> None:
    """Raise ValueError for a network that nobody means: files are believed only so far."""
    numbers = {
        "inner_channels": (unet.inner_channels, 4096),
        "channel_mults": (len(unet.channel_mults), 8),
        "res_blocks": (unet.res_blocks, 32),
        "attention_levels": (len(unet.attention_levels), 8),
        "head_channels": (unet.head_channels, 4096),
        "unshuffle": (unet.unshuffle, 16),
        "a multiple of a level": (max(unet.channel_mults, default=0), 256),
    }
    for name, (number, largest) in numbers.items():
        least = 0 if name == "attention_levels" else 1
        if not isinstance(number, int) or not least <= number <= largest:
            raise ValueError(f"{name} of {number!r:.40}")


def network_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The UNet's tensors of a checkpoint: prefixes off, the noise table's buffers left out.

    Published files are whole `Network` modules (`denoise_fn.` and buffers such as `gammas`), and
    may come from a DistributedDataParallel wrapper (`module.`).
    """
    stripped = {key.removeprefix("module."): value for key, value in tensors.items()}
    prefix = "denoise_fn."
    if any(key.startswith(prefix) for key in stripped):
        return {k.removeprefix(prefix): v for k, v in stripped.items() if k.startswith(prefix)}
    return stripped
