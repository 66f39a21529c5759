"""What several test files share: weights made of fixed numbers, a tiny refiner, small photos."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_weights import fill_state_dict
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.weights.reading import write_safetensors

GOLDEN = Path(__file__).parent / "golden"
TINY = UNetConfig(inner_channels=32, channel_mults=(1, 2), res_blocks=1)
QUICK = UNetConfig(inner_channels=32, channel_mults=(1, 2), res_blocks=1, unshuffle=2)

# the runners have two cores; more threads only take time from each other
threads = os.environ.get("D2S_TEST_THREADS") or os.environ.get("OMP_NUM_THREADS") or "2"
torch.set_num_threads(int(threads))


def filled(unet: UNet) -> UNet:
    """Fixed numbers in every tensor, so that convolutions that start at zero do something too."""
    spec = {k: [tuple(v.shape), "float32"] for k, v in unet.state_dict().items()}
    unet.load_state_dict({k: torch.from_numpy(v) for k, v in fill_state_dict(spec).items()})
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def published_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole `Network` module as the published training code saves it."""
    spec = json.loads((GOLDEN / "palette.spec.json").read_text())
    state = {k: torch.from_numpy(v) for k, v in fill_state_dict(spec).items()}
    state.setdefault("gammas", torch.linspace(1, 0, 2000))
    state.setdefault("posterior_mean_coef1", torch.zeros(2000))
    path = tmp_path_factory.mktemp("published") / "200_Network.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FID's network with fixed numbers, under the published file's name."""
    spec = json.loads((GOLDEN / "inception_fid.spec.json").read_text())
    state = {key: torch.from_numpy(value) for key, value in fill_state_dict(spec).items()}
    for key, value in state.items():
        if key.endswith(".conv.weight"):
            value *= 1.5  # with less, the pictures drown in the biases
    path = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def tiny_refiner() -> Refiner:
    return Refiner(filled(UNet(TINY)), RefinerConfig(unet=TINY))


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture with an edge and some grain, uint8 H x W x 3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    angle, turns = rng.uniform(0, 2 * np.pi), rng.uniform(1, 3)
    wave = np.sin(2 * np.pi * turns * (x * np.cos(angle) + y * np.sin(angle)))
    picture = 128 + 60 * wave[..., None] * rng.uniform(0.5, 1, 3)
    picture[x > rng.uniform(0.3, 0.7)] += rng.uniform(-50, 50, 3)
    picture += rng.normal(0, 3, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture
def small_photo() -> NDArray[np.uint8]:
    return photo(48, 64)


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    """(image, hole, guide) of three 32 x 32 pictures with holes of different shapes."""
    pictures = np.stack([photo(32, 32, seed) for seed in range(3)])
    image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    hole = torch.zeros(3, 1, 32, 32)
    hole[0, :, 8:24, 8:24] = 1
    hole[1, :, :, 20:] = 1
    hole[2, :, 3:7] = 1
    guide = torch.where(hole > 0, image.mean((2, 3), keepdim=True), image)
    return image, hole, guide


def make_weights(path: Path, seed: int = 0) -> Path:
    """A tiny refiner whose defaults take few steps."""
    torch.manual_seed(seed)
    quick = {"*": {"tk": 50, "steps": 2, "sampler": "dpmpp-sde", "inject": False}}
    config = RefinerConfig(unet=QUICK, prediction="v", tile=128, defaults=quick)
    write_safetensors(path, UNet(QUICK).state_dict(), config.to_json())
    return path


def save_pair(folder: Path, name: str, seed: int = 0) -> None:
    """NAME.png and NAME_mask.png, white in a box."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(90, 120, seed)).save(folder / f"{name}.png")
    hole = np.zeros((90, 120), np.uint8)
    hole[30:50, 40:70] = 255
    Image.fromarray(hole).save(folder / f"{name}_mask.png")
