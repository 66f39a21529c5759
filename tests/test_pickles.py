"""Every container that checkpoints come in is read for the same tensors, with nothing run."""

from __future__ import annotations

import collections
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2s_cli.errors import WeightsError
from d2s_cli.weights.pickle_machine import MAX_INSTRUCTIONS
from d2s_cli.weights.reading import read_weights


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 5)))


def assert_read(path: Path, expected: dict[str, Tensor], prefix: str = "") -> None:
    found, header = read_weights(path)
    assert header == {}
    assert {key.removeprefix(prefix) for key in found} == set(expected)
    for key, tensor in expected.items():
        got = found[prefix + key]
        assert got.dtype == tensor.dtype
        assert torch.equal(got, tensor), key


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict(tmp_path: Path, net: nn.Module, zipped: bool, protocol: int) -> None:
    path = tmp_path / "net.pth"
    state = net.state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert_read(path, state)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickle(tmp_path: Path, net: nn.Module, protocol: int) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(net.state_dict(), protocol))
    assert_read(path, net.state_dict())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_live_module(tmp_path: Path, net: nn.Module, zipped: bool) -> None:
    """The older container also holds the modules' source code."""
    path = tmp_path / "net.pth"
    torch.save(net, path, _use_new_zipfile_serialization=zipped)
    assert_read(path, net.state_dict())


def test_live_modules_in_a_plain_pickle(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "networks.pkl"
    path.write_bytes(pickle.dumps({"G": None, "G_ema": net, "kwargs": {"size": 256}}))
    assert_read(path, net.state_dict(), "G_ema.")


@pytest.mark.filterwarnings("ignore")
def test_torchscript(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(net).save(str(path))
    assert_read(path, net.state_dict())


class ModelCheckpoint:
    """As Lightning's callback, whose class is a key of `callbacks`."""


class Settings:
    """As OmegaConf's."""

    def __init__(self) -> None:
        self._content = {"lr": 1e-3}


@pytest.mark.parametrize("zipped", [True, False])
def test_lightning(tmp_path: Path, net: nn.Module, zipped: bool) -> None:
    path = tmp_path / "last.ckpt"
    state = {f"generator.{key}": tensor for key, tensor in net.state_dict().items()}
    saved = {
        "epoch": 3,
        "state_dict": collections.OrderedDict(state),
        "callbacks": {ModelCheckpoint: {"best_model_path": Path("x")}},
        "hyper_parameters": Settings(),
        "hparams_type": Settings,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    assert_read(path, state)


def test_without_the_classes_that_it_names(
    tmp_path: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file outlives the code that wrote it."""
    path = tmp_path / "last.ckpt"
    torch.save({"net": net.state_dict(), "hparams": Settings()}, path)
    monkeypatch.delattr(sys.modules[__name__], "Settings")
    assert_read(path, net.state_dict(), "net.")


def reconstruct(meta: dict[str, Any]) -> Persistent:
    raise AssertionError("this would run the source code of the file")


class Persistent(nn.Module):
    """As torch_utils.persistence writes objects: with their source."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_buffer("scale", torch.tensor([2.0]))

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('this was run')",
            "class_name": "Persistent",
            "state": self.__dict__,
        }
        return (reconstruct, (meta,))


def test_objects_with_source_code(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    data = pickle.dumps({"G_ema": Persistent()}, protocol=3)
    ours = f"c{__name__}\nreconstruct\n".encode()
    assert ours in data
    published = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    path.write_bytes(data.replace(ours, published))
    found, _ = read_weights(path)
    assert found["G_ema.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["G_ema.scale"].tolist() == [2]


def test_formats_views_and_shared_numbers(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    state = {
        "turned": whole.reshape(3, 4).t(),
        "part": whole[4:8],
        "tied": whole[4:8],
        "half": torch.ones(3, dtype=torch.float16),
        "brain": torch.ones(2, 2, dtype=torch.bfloat16),
        "long": torch.tensor([1, -(2**40)]),
        "bool": torch.tensor([True, False]),
        "number": torch.tensor(3.5),
        "none": torch.empty(0, 4),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "state.pth"
    torch.save(state, path)
    assert_read(path, state)


def test_a_container_that_is_shared_is_found_by_its_first_name(tmp_path: Path) -> None:
    part = {"w": torch.ones(2)}
    path = tmp_path / "state.pth"
    torch.save({"a": part, "b": part}, path)
    assert list(read_weights(path)[0]) == ["a.w"]


def test_the_name_does_not_matter(tmp_path: Path, net: nn.Module) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "download (3).bin"
    save_file(net.state_dict(), path)
    assert_read(path, net.state_dict())
    torch.save(net.state_dict(), path)
    assert_read(path, net.state_dict())


def test_files_of_many_instructions_are_within_the_limit(tmp_path: Path) -> None:
    """A live module's tensor takes about 160; MAT's file has three networks of up to 450."""
    many = nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(100)])
    data = pickle.dumps({"G_ema": many}, protocol=3)
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    assert len(read_weights(path)[0]) == 200
    assert MAX_INSTRUCTIONS >= 2 * 1500 * 165


def test_what_holds_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "settings.pth"
    torch.save({"lr": 1e-3, "names": ["a"]}, path)
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_weights(path)
