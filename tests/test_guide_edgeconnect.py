"""EdgeConnect: the published networks' numbers, from files laid out as the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from golden_weights import fill_state_dict
from guide_checks import changed_pixels, check_guide, golden, run_inpaint
from torch import Tensor

import d2s_cli as d2s
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.edgeconnect import EdgeConnect, Generator, GeneratorConfig, config_from_tensors

LIMIT = 1e-5
EDGES, PAINTER = "EdgeModel_gen.pth", "InpaintingModel_gen.pth"
State = dict[str, Tensor]


def filled(spec: dict[str, list[object]]) -> State:
    return {k: torch.from_numpy(v) for k, v in fill_state_dict(spec).items()}


def published(name: str) -> State:
    return filled(json.loads((GOLDEN / f"edgeconnect_{name}.spec.json").read_text()))


def write(path: Path, state: State) -> Path:
    """As PyTorch 1.0 saved it."""
    path.parent.mkdir(exist_ok=True)
    content = {"iteration": 2_000_000, "generator": state}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def small(given: int, made: int, blocks: int = 1) -> State:
    config = GeneratorConfig(given, made, widths=(4, 6, 8), blocks=blocks, biases=made == 3)
    tensors = Generator(config).state_dict()
    return filled({k: [tuple(v.shape), "float32"] for k, v in tensors.items()})


def with_spectral_norm(state: State) -> State:
    """Every weight but the last convolution's as it is before its norm, with the vectors."""
    stored: State = {}
    for key, value in state.items():
        if not key.endswith(".weight") or key == "decoder.7.weight":
            stored[key] = value
            continue
        matrix = value.transpose(0, 1) if key.startswith("decoder.") else value
        u, _, v = torch.linalg.svd(matrix.flatten(1), full_matrices=False)
        stored |= {f"{key}_orig": 3 * value, f"{key}_u": u[:, 0], f"{key}_v": v[0]}
    return stored


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with small networks, and the discriminators that lie beside the published ones."""
    folder = tmp_path / "celeba"
    write(folder / EDGES, with_spectral_norm(small(3, 1)))
    write(folder / PAINTER, small(4, 3, blocks=2))
    for name in ("EdgeModel_dis.pth", "InpaintingModel_dis.pth"):
        torch.save(
            {"discriminator": {"conv1.0.weight_orig": torch.ones(4, 3, 4, 4)}}, folder / name
        )
    return folder


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> EdgeConnect:
    folder = tmp_path_factory.mktemp("edgeconnect")
    write(folder / EDGES, published("edge"))
    write(folder / PAINTER, published("inpaint"))
    loaded = d2s.load_guide("edgeconnect", weights=folder)
    assert isinstance(loaded, EdgeConnect)
    return loaded


def golden_scene() -> tuple[Tensor, Tensor]:
    """RGB in [0, 1] and hole, 96 x 72."""
    picture = golden("edgeconnect.npz", "picture").permute(2, 0, 1)[None].float() / 255
    return picture, golden("edgeconnect.npz", "hole")[None, None].float()


def test_both_networks_give_the_published_numbers(guide: EdgeConnect) -> None:
    picture, hole = golden_scene()
    with torch.inference_mode():
        grey, edges = guide.find_edges((2 * picture - 1) * (1 - hole), hole)
        drawn = guide.draw_edges(grey, edges, hole)
        painted = guide.paint(picture, hole, drawn)
    assert torch.equal(edges[0, 0] > 0, golden("edgeconnect.npz", "canny_edge"))
    expected = golden("edgeconnect.npz", "edge_out")
    assert float((drawn[..., ::2, ::2] - expected).abs().max()) < LIMIT
    expected = golden("edgeconnect.npz", "inpaint_out")
    assert float((painted[..., ::3, ::3] - expected).abs().max()) < LIMIT


def test_the_guide_gives_the_published_picture(guide: EdgeConnect) -> None:
    picture, hole = golden_scene()
    out = (guide(2 * picture - 1, hole) + 1) / 2
    merged = golden("edgeconnect.npz", "merged_uint8").numpy().astype(int)
    ours = (out[0].permute(1, 2, 0) * 255).numpy()[::3, ::3]
    # the published code truncates
    assert float(np.abs(ours - merged - 0.5).max()) < 0.5 + 1e-3


def test_a_network_without_spectral_norm_and_of_one_block_gives_the_published_codes_numbers() -> (
    None
):
    config = GeneratorConfig(given=3, made=1, blocks=1, biases=True)
    network = Generator(config)
    spec = {k: [tuple(v.shape), "float32"] for k, v in network.state_dict().items()}
    network.load_state_dict(filled(spec))
    assert config_from_tensors(network.state_dict()) == config
    picture, hole = (t[..., :48, :48] for t in golden_scene())
    grey = (picture * torch.tensor([0.2125, 0.7154, 0.0721]).view(3, 1, 1)).sum(1, keepdim=True)
    edges = golden("edgeconnect.npz", "canny_edge")[None, None, :48, :48].float()
    with torch.inference_mode():
        out = network(torch.cat([grey * (1 - hole) + hole, edges * (1 - hole), hole], dim=1))
    assert float((out[..., ::2, ::2] - golden("edgeconnect.npz", "plain_norm")).abs().max()) < LIMIT


def test_the_published_sizes_are_read_off_the_tensors(guide: EdgeConnect) -> None:
    edges, painter = (config_from_tensors(n.state_dict()) for n in (guide.edges, guide.painter))
    assert edges == GeneratorConfig(3, 1, (64, 128, 256), blocks=8, biases=False)
    assert painter == GeneratorConfig(4, 3, (64, 128, 256), blocks=8, biases=True)


@pytest.mark.parametrize(
    "given", [[""], [EDGES], [PAINTER], [EDGES, PAINTER], [PAINTER, EDGES, "EdgeModel_dis.pth"]]
)
def test_the_files_may_be_given_in_any_way(pair: Path, given: list[str]) -> None:
    paths = [pair / name for name in given]
    guide = d2s.load_guide("edgeconnect", weights=paths if len(paths) > 1 else paths[0])
    assert config_from_tensors(guide.edges.state_dict()).blocks == 1
    assert config_from_tensors(guide.painter.state_dict()).blocks == 2


def test_spectral_norm_is_divided_out(pair: Path) -> None:
    guide = d2s.load_guide("edgeconnect", weights=pair)
    ours = guide.edges.state_dict()
    for key in (k for k in ours if k.endswith("weight") and k != "decoder.7.weight"):
        weight = ours[key].transpose(0, 1) if key.startswith("decoder.") else ours[key]
        norm = torch.linalg.matrix_norm(weight.flatten(1), 2)
        assert float(norm) == pytest.approx(1, abs=1e-4)
    plain = small(3, 1)["decoder.7.weight"]
    assert torch.equal(ours["decoder.7.weight"], plain)


def test_files_of_pytorch_0_4_and_of_several_gpus(pair: Path) -> None:
    state = with_spectral_norm(small(3, 1))
    old = {k: v for k, v in state.items() if not k.endswith("_v")} | small(3, 1)
    write(pair / EDGES, {f"module.{k}": v for k, v in old.items()})
    guide = d2s.load_guide("edgeconnect", weights=pair)
    assert all(torch.equal(guide.edges.state_dict()[k], v) for k, v in small(3, 1).items())


def test_any_size(pair: Path) -> None:
    check_guide(d2s.load_guide("edgeconnect", weights=pair), (5, 3), (16, 24), (37, 22))


def test_sigma_changes_the_edges(pair: Path) -> None:
    picture, hole = golden_scene()
    soft, fine = (d2s.load_guide("edgeconnect", weights=pair, sigma=s) for s in (2.0, 1.0))
    image = 2 * picture - 1
    assert fine.find_edges(image, hole)[1].sum() > soft.find_edges(image, hole)[1].sum()


@pytest.mark.parametrize("sigma", [0, -1, float("nan"), float("inf"), "wide"])
def test_a_sigma_without_meaning_is_refused(pair: Path, sigma: object) -> None:
    with pytest.raises(UsageError, match="a number"):
        d2s.load_guide("edgeconnect", weights=pair, sigma=sigma)


def test_one_network_alone_is_not_enough(pair: Path) -> None:
    (pair / PAINTER).unlink()
    with pytest.raises(WeightsError, match=r"gives picture in .*\n.*InpaintingModel_gen\.pth"):
        d2s.load_guide("edgeconnect", weights=pair / EDGES)


def test_two_of_the_same_network_are_refused(pair: Path) -> None:
    with pytest.raises(WeightsError, match="both hold the network that gives edges"):
        d2s.load_guide("edgeconnect", weights=[pair / EDGES, write(pair / "b.pth", small(3, 1))])


def test_another_network_is_refused_with_the_names_it_has(tmp_path: Path) -> None:
    torch.save({"decoder.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"edges or picture[\s\S]*decoder\.weight") as error:
        d2s.load_guide("edgeconnect", weights=tmp_path / "other.pth")
    assert error.value.exit_code == 5
    with pytest.raises(WeightsError, match="from 5 to 2 channels"):
        d2s.load_guide("edgeconnect", weights=write(tmp_path / "x.pth", small(5, 2)))


@pytest.mark.parametrize("end", ["_u", "_v"])
def test_vectors_that_do_not_fit_are_refused(pair: Path, end: str) -> None:
    state = with_spectral_norm(small(3, 1))
    state[f"decoder.3.weight{end}"] = torch.ones(2)
    write(pair / EDGES, state)
    with pytest.raises(WeightsError, match=r"decoder\.3\.weight_u .* do not fit"):
        d2s.load_guide("edgeconnect", weights=pair)


def test_missing_and_further_layers_are_listed(pair: Path) -> None:
    state = small(4, 3)
    del state["middle.0.conv_block.5.weight"]
    state["middle.0.conv_block.9.weight"] = torch.ones(1)
    write(pair / PAINTER, state)
    with pytest.raises(WeightsError, match="2 tensors differ") as error:
        d2s.load_guide("edgeconnect", weights=pair)
    assert "missing: middle.0.conv_block.5.weight [8, 8, 3, 3]" in error.value.hint


def test_from_the_command_line(pair: Path, tmp_path: Path) -> None:
    run = run_inpaint("edgeconnect", [pair / EDGES, pair / PAINTER], tmp_path)
    assert run.exit_code == 0, run.stderr
    inside, outside = changed_pixels(tmp_path)
    assert inside > 0.9 * 12 * 21
    assert outside == 0
