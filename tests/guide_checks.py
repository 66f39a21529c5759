"""What holds for every guide with a network, whatever its weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from conftest import GOLDEN, photo
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from d2s_cli.cli.app import app
from d2s_cli.guides.network import NetworkGuide

#: a part of the golden picture that the hole's border crosses, for networks that are small
PART = (..., slice(16, 80), slice(32, 96))


def golden(file: str, name: str) -> Tensor:
    """What published code computed."""
    with np.load(GOLDEN / file) as arrays:
        return torch.from_numpy(arrays[name])


def golden_picture() -> tuple[Tensor, Tensor]:
    """What it was given: RGB in [0, 1] and the hole, 96 x 128."""
    picture = golden("guide_picture.npz", "picture").permute(2, 0, 1)[None].float() / 255
    return picture, golden("guide_picture.npz", "hole")[None, None].float()


def meta_tensors(spec: str) -> dict[str, Tensor]:
    """Names and shapes of a published network's tensors, without numbers."""
    shapes = json.loads((GOLDEN / spec).read_text())
    return {k: torch.empty(shape, device="meta") for k, (shape, _) in shapes.items()}


def scene(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two pictures in [-1, 1] with holes of different shapes."""
    pictures = np.stack([photo(height, width, seed) for seed in (1, 2)])
    image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    hole = torch.zeros(2, 1, height, width)
    hole[0, :, height // 4 : height // 2, width // 3 :] = 1
    hole[1, :, : height // 3, : width // 2] = 1
    return image, hole


def check_guide(guide: NetworkGuide, *sizes: tuple[int, int]) -> None:
    """Known pixels bit for bit, the hole filled, and no picture's result depends on its batch."""
    for height, width in sizes:
        image, hole = scene(height, width)
        out = guide(image, hole, seed=3)
        inside = (hole > 0).expand_as(image)
        assert torch.equal(out[~inside], image[~inside])
        assert bool(out.isfinite().all())
        assert float(out.abs().max()) <= 1
        assert float((out != image)[inside].float().mean()) > 0.9
        hidden = torch.where(inside, torch.rand_like(image), image)
        assert torch.equal(guide(hidden, hole, seed=3), out)
        check_batch(guide, image, hole, out)


def check_batch(guide: NetworkGuide, image: Tensor, hole: Tensor, out: Tensor) -> None:
    """Three pictures with seeds of their own, two of them alike, are filled as each is alone.

    Args:
        out: what the guide gave for both pictures with the seed 3.
    """
    assert guide.batches
    seeds = [3, 3, 4]
    images, holes = (torch.cat([t, t[:1]]) for t in (image, hole))
    together = guide(images, holes, seed=seeds)
    assert float((together[:2] - out).abs().max()) < 1e-4
    third = guide(images[2:], holes[2:], seed=4)
    assert float((together[2:] - third).abs().max()) < 1e-4
    one = guide(images[1:2], holes[1:2], seed=3)
    assert float((together[1:2] - one).abs().max()) < 1e-4


def run_inpaint(name: str, checkpoints: list[Path], folder: Path) -> Result:
    """`d2s inpaint --guide NAME` on a small photo, with the checkpoints installed."""
    store = folder / "store" / name
    store.mkdir(parents=True)
    for path in checkpoints:
        (store / path.name).hardlink_to(path)
    picture, hole = folder / "photo.png", folder / "hole.png"
    Image.fromarray(photo(45, 61)).save(picture)
    drawn = np.zeros((45, 61), np.uint8)
    drawn[10:22, 20:41] = 255
    Image.fromarray(drawn).save(hole)
    words = ["inpaint", str(picture), "-m", str(hole), "-g", name, "--tk", "0", "-d", "cpu"]
    return CliRunner().invoke(app, words, env={"D2S_WEIGHTS_DIR": str(folder / "store")})


def changed_pixels(folder: Path) -> tuple[int, int]:
    """Of the photo that `run_inpaint` filled: changed pixels inside and outside the hole."""
    before, after, hole = (
        np.asarray(Image.open(folder / f"{name}.png")) for name in ("photo", "photo_d2s", "hole")
    )
    changed = (before != after).any(axis=2)
    return int(changed[hole > 0].sum()), int(changed[hole == 0].sum())
