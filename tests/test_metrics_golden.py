"""Published evaluation codes' outputs, reproduced with weights of fixed numbers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from golden_weights import fill
from numpy.typing import NDArray
from torch import nn

from d2s_cli.errors import WeightsError
from d2s_cli.images.convert import to_unit_range
from d2s_cli.metrics import pixels
from d2s_cli.metrics.distances import (
    Moments,
    frechet_distance,
    frechet_of_features,
    inception_score,
    kernel_distance,
)
from d2s_cli.metrics.ids import discriminate, fit_plane
from d2s_cli.metrics.inception import FIDInception, load_inception, prepare, pth_name
from d2s_cli.metrics.lpips import TRUNKS, lacking, load_lpips, read_parts
from d2s_cli.metrics.presets import PRESETS

Arrays = dict[str, NDArray[np.float64]]
DDOF = {"mat": 0, "pytorchfid": 1, "torchfidelity": 1, "cleanfid": 1}
PAIRS = ("real_fake", "real_fakenear", "real400_fake300", "few40")


def arrays(name: str) -> Arrays:
    with np.load(GOLDEN / name) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def golden() -> Arrays:
    return arrays("metrics.npz")


def sets(golden: Arrays, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    real, fake = golden["real"], golden["fake_near" if "near" in name else "fake"]
    cut = {"few40": (40, 40), "real400_fake300": (400, 300)}.get(name, (400, 400))
    return real[: cut[0]].astype(np.float32), fake[: cut[1]].astype(np.float32)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("code", DDOF)
def test_frechet_distances_are_those_of_four_codes(golden: Arrays, code: str, name: str) -> None:
    real, fake = sets(golden, name)
    wanted = pytest.approx(float(golden[f"fid_{code}__{name}"]), rel=1e-6)
    assert frechet_of_features(fake, real, DDOF[code]) == wanted
    sides = [Moments.of(side) for side in (fake, real)]
    moments = [(side.mean, side.covariance(DDOF[code])) for side in sides]
    assert frechet_distance(*moments[0], *moments[1]) == wanted


@pytest.mark.parametrize("name", ["real_fake", "real_fakenear", "few40"])
def test_ids_are_those_of_the_published_classifier(golden: Arrays, name: str) -> None:
    real, fake = sets(golden, name)
    found = discriminate(real, fake, paired=True)
    assert found.uids == pytest.approx(float(golden[f"uids_mat__{name}"]), abs=1 / 800)
    assert found.pids == float(golden[f"pids_mat__{name}"])


@pytest.mark.parametrize("name", ["real_fake", "real_fakenear"])
def test_the_plane_is_the_published_one_as_far_as_that_was_fitted(
    golden: Arrays, name: str
) -> None:
    plane = fit_plane(*sets(golden, name))
    np.testing.assert_allclose(plane.weights, golden[f"svm_coef__{name}"], atol=4e-5)
    assert plane.bias == pytest.approx(float(golden[f"svm_intercept__{name}"]), abs=5e-4)


def test_inception_scores_are_those_of_two_codes(golden: Arrays) -> None:
    logits = golden["logits"]
    for splits in (1, 10):
        key = f"is_torchfidelity_splits{splits}_shuffle2020"
        score = inception_score(logits, splits, shuffle=PRESETS["tf"].shuffle)
        assert score.mean == pytest.approx(float(golden[f"{key}_mean"]), rel=1e-9)
        assert score.std == pytest.approx(float(golden[f"{key}_std"]), rel=1e-9)
        score = inception_score(logits, splits, shuffle=PRESETS["mat"].shuffle)
        assert score.mean == pytest.approx(float(golden[f"is_mat_splits{splits}_mean"]), rel=1e-6)
    odd = inception_score(logits[:493])
    assert odd.mean == pytest.approx(float(golden["is_mat_n493_splits10_mean"]), rel=1e-6)
    assert odd.std == pytest.approx(float(golden["is_mat_n493_splits10_std"]), rel=2e-6)


@pytest.mark.parametrize("name", ["real_fake", "real_fakenear"])
def test_kernel_distances_are_those_of_three_codes(golden: Arrays, name: str) -> None:
    real, fake = sets(golden, name)
    found = kernel_distance(fake, real, subsets=50, size=100, seed=PRESETS["tf"].kid_seed)
    key = "kid_torchfidelity_50x100_seed2020"
    assert found.mean == pytest.approx(float(golden[f"{key}_mean__{name}"]), abs=1e-6)
    assert found.std == pytest.approx(float(golden[f"{key}_std__{name}"]), abs=1e-6)
    found = kernel_distance(fake, real, subsets=50, size=100, seed=0)
    for code in ("mat", "cleanfid"):
        wanted = float(golden[f"kid_{code}_50x100_npseed0__{name}"])
        assert found.mean == pytest.approx(wanted, abs=1e-6)
    whole = kernel_distance(fake, real, subsets=1, size=400)
    assert whole.mean == pytest.approx(float(golden[f"kid_torchfidelity_all400__{name}"]), abs=1e-9)


@pytest.mark.parametrize("i", range(3))
def test_pixel_scores_are_the_published_ones(i: int) -> None:
    golden = arrays("images.npz")
    a, b = golden[f"a{i}"].astype(np.uint8), golden[f"b{i}"].astype(np.uint8)
    assert pixels.psnr(a, b) == pytest.approx(float(golden[f"psnr_mat_{i}"]), rel=1e-12)
    assert pixels.l1(a, b) == pytest.approx(float(golden[f"l1_mat_{i}"]), rel=1e-12)
    kinds = {"gaussian": "ssim_mat", "flat": "ssim_skimage_default"}
    for kind, key in kinds.items():
        assert pixels.ssim(a, b, kind=kind) == pytest.approx(float(golden[f"{key}_{i}"]), abs=1e-12)
    # the published code of this one computes in float32
    assert pixels.ssim(a, b, kind="padded") == pytest.approx(
        float(golden[f"ssim_lama_{i}"]), abs=5e-6
    )


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> FIDInception:
    return load_inception(inception_file)


@pytest.mark.parametrize(
    ("preset", "features", "resized", "every"),
    [
        ("mat", "tfid_pool_2048", "resized_tf1_0_255_every13", lambda x: x * 128 + 128),
        ("pytorch-fid", "pool_2048", "resized_pytorch_0_1_every13", lambda x: (x + 1) / 2),
        ("clean", "clean_pool_2048", "resized_clean_0_255_every13", lambda x: x * 128 + 128),
    ],
)
def test_inception_features_are_those_of_three_codes(
    inception: FIDInception, preset: str, features: str, resized: str, every: object
) -> None:
    golden = arrays("inception_fid.npz")
    pictures = [golden[f"image_{i}"].astype(np.uint8) for i in range(2)]
    x = torch.stack([prepare(picture, PRESETS[preset]) for picture in pictures])
    assert callable(every)
    np.testing.assert_allclose(every(x)[..., ::13, ::13], golden[resized], atol=2e-3)
    with torch.inference_mode():
        found = inception(x).numpy()
    np.testing.assert_allclose(found, golden[features], atol=1e-3)
    if preset == "mat":
        logits = inception.logits(found)
        np.testing.assert_allclose(logits, golden["tfid_logits_unbiased"], atol=1e-3)


def test_the_network_has_exactly_the_published_names() -> None:
    spec = json.loads((GOLDEN / "inception_fid.spec.json").read_text())
    with torch.device("meta"):
        ours = {key: list(value.shape) for key, value in FIDInception().state_dict().items()}
    assert ours == {key: shape for key, (shape, _) in spec.items()}


def tensorflow_names(network: FIDInception) -> dict[str, str]:
    """TensorFlow's names by ours, written down independently of the translation."""
    blocks = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
    inner = {
        "A": "conv tower.conv tower.conv_1 tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_2.conv",
        "B": "conv tower.conv tower.conv_1 tower.conv_2",
        "C": "conv tower.conv tower.conv_1 tower.conv_2 tower_1.conv tower_1.conv_1 tower_1.conv_2"
        " tower_1.conv_3 tower_1.conv_4 tower_2.conv",
        "D": "tower.conv tower.conv_1 tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_1.conv_3",
        "E": "conv tower_conv tower_mixed_conv tower_mixed_conv_1 tower_1_conv tower_1_conv_1"
        " tower_1_mixed_conv tower_1_mixed_conv_1 tower_2_conv",
    }
    names = {}
    stems = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]
    for i, stem in enumerate(stems):
        names[f"Conv2d_{stem}"] = "layers.conv" + (f"_{i}" if i else "")
    for i, (block, kind) in enumerate(zip(blocks, "AAABCCCCDEE", strict=True)):
        children = [name for name, _ in network.get_submodule(f"Mixed_{block}").named_children()]
        mixed = "layers.mixed" + (f"_{i}" if i else "")
        for child, tower in zip(children, inner[kind].split(), strict=True):
            names[f"Mixed_{block}.{child}"] = f"{mixed}.{tower}"
    return names


def test_tensorflows_names_are_translated(inception: FIDInception) -> None:
    kinds = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean"}
    for ours, theirs in tensorflow_names(inception).items():
        for kind, key in kinds.items():
            assert pth_name(f"{theirs}.{kind}") == f"{ours}.{key}"
    assert pth_name("output.weight") == "fc.weight"


class Scripted(nn.Module):
    """A module whose TorchScript file has the tensors under TensorFlow's names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def scripted_file(network: FIDInception, state: dict[str, torch.Tensor], path: Path) -> Path:
    root = Scripted()
    kinds = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean"}
    for ours, theirs in (tensorflow_names(network) | {"": "output"}).items():
        place: nn.Module = root
        for part in theirs.split("."):
            if part not in dict(place.named_children()):
                place.add_module(part, Scripted())
            place = place.get_submodule(part)
        if not ours:
            for kind in ("weight", "bias"):
                place.register_buffer(kind, state[f"fc.{kind}"])
            continue
        for kind, key in (kinds | {"var": "bn.running_var"}).items():
            place.register_buffer(kind, state[f"{ours}.{key}"])
    torch.jit.script(root).save(str(path))
    return path


def test_the_torchscript_file_gives_the_same_network(
    inception: FIDInception, tmp_path: Path
) -> None:
    ours = constants()
    path = scripted_file(inception, ours, tmp_path / "inception-2015-12-05.pt")
    theirs = load_inception(path).state_dict()
    for key, value in ours.items():
        if key.endswith("bn.weight"):  # that file has none
            assert bool((theirs[key] == 1).all())
        elif not key.endswith("num_batches_tracked"):
            assert torch.equal(value, theirs[key]), key


def constants() -> dict[str, torch.Tensor]:
    """Every tensor full of one number of its own."""
    spec = json.loads((GOLDEN / "inception_fid.spec.json").read_text())
    return {key: torch.full(shape, float(i)) for i, (key, (shape, _)) in enumerate(spec.items())}


def test_another_network_is_refused(tmp_path: Path) -> None:
    for fc, text in ((1008, "no Conv2d_1a_3x3.conv.weight"), (1000, "fc.weight of another shape")):
        torch.save({"fc.weight": torch.zeros(fc, 2048)}, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=text):
            load_inception(tmp_path / "other.pth")


def trunk(net: str) -> dict[str, torch.Tensor]:
    spec = json.loads((GOLDEN / f"lpips_{net}.spec.json").read_text())
    scale = {"weight": np.float32(1.5), "bias": np.float32(1)}
    return {
        key: torch.from_numpy(fill(key, tuple(shape)) * scale[key.rpartition(".")[2]])
        for key, (shape, _) in spec.items()
    }


def published_heads(net: str) -> Path | None:
    """The heads of the lpips package, where that is installed; they are not ours to copy."""
    found = importlib.util.find_spec("lpips")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "weights" / "v0.1" / f"{net}.pth"


@pytest.mark.skipif(importlib.util.find_spec("lpips") is None, reason="no lpips package here")
@pytest.mark.parametrize("net", TRUNKS)
def test_lpips_is_the_published_one(net: str, tmp_path: Path) -> None:
    heads = published_heads(net)
    assert heads is not None
    torch.save(trunk(net), tmp_path / "trunk.pth")
    network, golden = (
        load_lpips(net, read_parts([heads, tmp_path / "trunk.pth"])),
        arrays("images.npz"),
    )
    for i in range(3):
        pair = (to_unit_range(golden[f"{side}{i}"].astype(np.uint8)[None]) for side in "ab")
        assert float(network(*pair)) == pytest.approx(float(golden[f"lpips_{net}_{i}"]), abs=1e-7)


@pytest.mark.parametrize("net", TRUNKS)
def test_lpips_layers_are_the_published_ones(net: str, tmp_path: Path) -> None:
    """Without the published heads: with each one's mean, layers add up to what they should."""
    tensors = trunk(net)
    for stage, numbers in enumerate(TRUNKS[net].stages):
        width = len(tensors[f"features.{numbers[-1]}.bias"])
        tensors[f"lin{stage}.model.1.weight"] = torch.full((1, width, 1, 1), 1.0)
    torch.save(tensors, tmp_path / "both.pth")
    network = load_lpips(net, read_parts([tmp_path / "both.pth"]))
    golden = arrays("images.npz")
    a, b = (to_unit_range(golden[f"{side}2"].astype(np.uint8)[None]) for side in "ab")
    with torch.inference_mode():
        # squared distance of unit vectors is 2 - 2 cos
        wanted = sum(
            (2 - 2 * torch.cosine_similarity(x, y, dim=1)).mean()
            for x, y in zip(network.stages(a), network.stages(b), strict=True)
        )
        assert float(network(a, b)) == pytest.approx(float(wanted), rel=1e-4)
        assert float(network(a, a)) == 0


def test_heads_and_trunk_must_belong_together(tmp_path: Path) -> None:
    heads = {f"lin{i}.model.1.weight": torch.ones(1, 64, 1, 1) for i in range(5)}
    whole = {key.replace("features.", "net.slice1."): v for key, v in trunk("alex").items()}
    torch.save(whole | {"scaling_layer.shift": torch.zeros(3)}, tmp_path / "module.pth")
    assert read_parts([tmp_path / "module.pth"]).keys() == trunk("alex").keys()
    assert lacking(trunk("alex")) == ["heads"]
    assert lacking(heads) == ["trunk"]
    with pytest.raises(WeightsError, match="lack their linear heads"):
        load_lpips("alex", trunk("alex"))
    with pytest.raises(WeightsError, match="lack their trunk"):
        load_lpips("alex", heads)
    with pytest.raises(WeightsError, match="do not belong together: lin1 has 64 channels"):
        load_lpips("alex", heads | trunk("alex"))
