"""MAT, from pickles of live modules as the authors publish them, and from what others made."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from foreign_classes import foreign_classes
from golden_weights import fill_state_dict
from guide_checks import changed_pixels, check_guide, run_inpaint, scene
from safetensors.torch import save_file
from torch import Tensor, nn

import d2s_cli as d2s
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.mat import config_from_tensors
from d2s_cli.guides.mat_network import MAT, Draws, MATConfig

TINY = MATConfig(
    side=128,
    width=12,
    hidden=18,
    latent=6,
    style=10,
    mapping=2,
    channels=(4, 6, 8, 10),
    picture_style=14,
)
OTHERS = [
    replace(TINY, noise=False),
    replace(TINY, depths=(2, 1, 1, 2, 3), windows=(16, 16, 16, 8, 16), mapping=3),
]
Arrays = dict[str, Tensor]
Spec = dict[str, tuple[list[int], str]]


def filled_weights(spec: Spec) -> Arrays:
    """Fixed numbers of the sizes that the network's scaled layers expect.

    What follows from the sizes is given: the binomial filter, and seams (all open: d2s makes its
    own, as the published program does).
    """
    state = {}
    for key, numbers in fill_state_dict(spec).items():
        factor = np.prod(numbers.shape[1:]) ** 0.5 if key.endswith("weight") else 1.0
        factor *= 100 if key.startswith("mapping.fc") else 1  # these layers learn at a 100th
        factor *= len(numbers) ** 0.5 if key.endswith("noise_const") else 1
        factor *= 0.15 if key.endswith("toRGB.conv.weight") else 1
        if key.endswith("resample_filter"):
            numbers, factor = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32), 1 / 64
        if key.endswith("attn_mask"):
            factor = 0
        state[key] = torch.from_numpy(np.asarray(numbers * np.float32(factor)))
    return state


def whole_spec(config: MATConfig) -> Spec:
    """All that a published file holds: the network's own tensors, filters and seams."""
    spec = {k: (list(v.shape), "float32") for k, v in MAT(config).state_dict().items()}
    for index, window in enumerate(config.windows):
        if config.depths[index] > 1 and index != 2:
            layer = f"synthesis.first_stage.tran.{index}.blocks.1"
            spec[f"{layer}.attn_mask"] = ([4, window**2, window**2], "float32")
    spec["synthesis.first_stage.conv_first.conv.resample_filter"] = ([4, 4], "float32")
    return spec


class Live(nn.Module):
    """A module that pickles as the authors' do: what it holds, with the source of its class."""

    rebuild: Callable[..., object]
    source: str

    def __reduce__(self) -> tuple[Callable[..., object], tuple[dict[str, object]]]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": "Generator",
            "state": self.__dict__,
        }
        return self.rebuild, (meta,)


def live_modules(state: Arrays) -> nn.Module:
    """Modules inside modules that hold `state`; numbered ones in torch's own containers."""
    root = Live()
    for key, tensor in state.items():
        node: nn.Module = root
        *path, name = key.split(".")
        for part, below in zip(path, [*path[1:], name], strict=True):
            if part not in node._modules:
                node.add_module(part, nn.ModuleList() if below.isdigit() else Live())
            node = node._modules[part]
        if name in ("resample_filter", "attn_mask", "noise_const", "w_avg"):
            node.register_buffer(name, tensor)
        else:
            node.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        # a plain tensor beside the parameters, which belongs to no state dict
        node.weight_maskUpdater = torch.ones(1, 1, 3, 3)
    return root


def write_published(path: Path, state: Arrays, source: str = "class Generator: ...") -> Path:
    """The training program's snapshot: a plain pickle of live modules and settings."""
    origins = (
        "torch_utils.persistence._reconstruct_persistent_obj",
        "dnnlib.util.EasyDict",
    )
    with foreign_classes(*origins) as (rebuild, settings):
        Live.rebuild, Live.source = staticmethod(rebuild), source
        kwargs = settings()
        kwargs.__dict__.update(class_name="datasets.dataset_256.ImageFolderMaskDataset")
        snapshot = {
            "training_set_kwargs": kwargs,
            "val_set_kwargs": kwargs,
            "G": live_modules({"mapping.fc0.weight": torch.zeros(3, 3)}),
            "D": live_modules({"fc0.weight": torch.zeros(3, 3)}),
            "G_ema": live_modules(state),
            "augment_pipe": None,
        }
        with path.open("wb") as file:
            pickle.dump(snapshot, file)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mat")
    return write_published(folder / "tiny.pkl", filled_weights(whole_spec(TINY)))


def test_a_published_pickle_gives_the_published_result(tmp_path: Path) -> None:
    spec = json.loads((GOLDEN / "mat.spec.json").read_text())
    path = write_published(tmp_path / "CelebA-HQ_256.pkl", filled_weights(spec))
    with np.load(GOLDEN / "mat.npz") as file:
        golden = {key: np.array(file[key]) for key in file.files}
    places = np.unpackbits(golden["hole"]).reshape(256, 256)
    image = torch.from_numpy(golden["image"] / np.float32(127.5) - 1)[None]
    hole = torch.from_numpy(places)[None, None].float()
    tokens = np.unpackbits(golden["keep_tokens"]).reshape(1, 256, 180)
    features = np.unpackbits(golden["keep_features"]).reshape(1, 512, 16, 16)
    kept = [torch.from_numpy(part).float() for part in (tokens, features)]

    guide = d2s.load_guide("mat", path, truncation_psi=0.7)
    path.unlink()  # a quarter of a gigabyte
    assert guide.network.config == MATConfig()
    draws = Draws(torch.from_numpy(golden["z"]), *kept, guide.network.constant_noise())
    with torch.inference_mode():
        filled = guide.sample(torch.where(hole > 0, 0.5, image), hole, draws=draws)
    every_third = filled[0, :, ::3, ::3].numpy()[:, places[::3, ::3] > 0]
    assert np.abs(every_third - golden["filled"]).max() < 1e-4


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (MATConfig(), 59.779834),
        (replace(MATConfig(), side=512, channels=(64, 128, 256, 512, 512, 512)), 61.562518),
    ],
)
def test_both_published_sizes_are_read_off_the_tensors(config: MATConfig, millions: float) -> None:
    with torch.device("meta"):
        network = MAT(config)
    assert config_from_tensors(network.state_dict()) == config
    assert sum(p.numel() for p in network.parameters()) / 1e6 == millions


@pytest.mark.parametrize("config", OTHERS)
def test_other_sizes_load_and_run(tmp_path: Path, config: MATConfig) -> None:
    path = write_published(tmp_path / "other.pkl", filled_weights(whole_spec(config)))
    guide = d2s.load_guide("mat", path)
    assert guide.network.config == config
    check_guide(guide, (128, 128))


def test_the_source_in_the_file_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    source = f"open({str(trace)!r}, 'w').write('it ran')\nclass Generator: ..."
    path = write_published(tmp_path / "live.pkl", filled_weights(whole_spec(TINY)), source)
    d2s.load_guide("mat", path)
    assert not trace.exists()


def test_state_dicts_made_of_it_give_the_same(tmp_path: Path, tiny: Path) -> None:
    state = {k: v.half().float() for k, v in filled_weights(whole_spec(TINY)).items()}
    image, hole = scene(128, 128)
    full = d2s.load_guide("mat", write_published(tmp_path / "full.pkl", state))(image, hole)
    torch.save(state, tmp_path / "plain.pth")
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "half.safetensors")
    for name in ("plain.pth", "half.safetensors"):
        assert torch.equal(d2s.load_guide("mat", tmp_path / name)(image, hole), full)


def test_a_file_without_noise_maps_runs_without(tmp_path: Path, tiny: Path) -> None:
    image, hole = scene(128, 128)
    state = filled_weights(whole_spec(TINY))
    noiseless = {k: v for k, v in state.items() if ".noise_" not in k}
    torch.save(noiseless, tmp_path / "noiseless.pth")
    filled = d2s.load_guide("mat", tmp_path / "noiseless.pth")(image, hole)
    assert torch.equal(filled, d2s.load_guide("mat", tiny, noise_mode="none")(image, hole))
    assert not torch.equal(filled, d2s.load_guide("mat", tiny)(image, hole))
    with pytest.raises(WeightsError, match="noise strengths"):
        d2s.load_guide("mat", tmp_path / "noiseless.pth", noise_mode="random")


def test_options_change_the_result(tiny: Path) -> None:
    image, hole = scene(128, 128)
    usual = d2s.load_guide("mat", tiny)(image, hole)
    options = {"noise_mode": "random"}, {"noise_mode": "none"}, {"truncation_psi": 0.5}
    others = [d2s.load_guide("mat", tiny, **option)(image, hole) for option in options]
    assert all((other - usual).abs().max() > 1e-3 for other in others)


@pytest.mark.parametrize(
    "option", [{"noise_mode": "loud"}, {"truncation_psi": -1.0}, {"truncation_psi": "low"}]
)
def test_impossible_options_are_refused(tiny: Path, option: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        d2s.load_guide("mat", tiny, **option)


def test_the_seed_decides(tiny: Path) -> None:
    guide = d2s.load_guide("mat", tiny, noise_mode="random")
    image, hole = scene(128, 128)
    once = guide(image, hole, seed=5)
    assert torch.equal(once, guide(image, hole, seed=5))
    assert (once - guide(image, hole, seed=6)).abs().max() > 1e-3


def test_other_sizes_are_filled_at_its_own(tiny: Path) -> None:
    guide = d2s.load_guide("mat", tiny)
    assert "128" in guide.sizes
    check_guide(guide, (131, 90), (40, 57))


def test_it_fills_a_photo_on_the_command_line(tmp_path: Path, tiny: Path) -> None:
    result = run_inpaint("mat", [tiny], tmp_path)
    assert result.exit_code == 0, result.output
    inside, outside = changed_pixels(tmp_path)
    assert inside > 200
    assert outside == 0


def lacking(name: str) -> Arrays:
    return {k: v for k, v in filled_weights(whole_spec(TINY)).items() if k != name}


WRONG = {
    "another network": (lambda: {"model.1.ffc.convl2l.weight": torch.ones(2)}, "model.1.ffc"),
    "one tensor less": (
        lambda: lacking("synthesis.to_square.bias"),
        r"missing: synthesis\.to_square\.bias",
    ),
    "one tensor more": (
        lambda: lacking("") | {"mapping.embed.weight": torch.ones(2)},
        r"unexpected: mapping\.embed\.weight",
    ),
    "an odd width": (lambda: filled_weights(whole_spec(replace(TINY, width=13))), "13 channels"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_named_with_its_keys(tmp_path: Path, what: str) -> None:
    state, said = WRONG[what]
    path = write_published(tmp_path / "wrong.pkl", state())
    with pytest.raises(WeightsError, match=said) as raised:
        d2s.load_guide("mat", path)
    assert str(path) in str(raised.value)
    assert raised.value.exit_code == 5
