"""The network's size, reading its shape off a checkpoint, and files that do not load."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from conftest import TINY, filled
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.unet import (
    Norm,
    UNet,
    UNetConfig,
    config_from_state_dict,
    noise_level_embedding,
)
from d2s_cli.errors import WeightsError
from d2s_cli.weights.reading import write_safetensors


def meta_unet(config: UNetConfig) -> UNet:
    with torch.device("meta"):
        return UNet(config)


def saved_tiny(path: Path, **changes: Tensor | None) -> Path:
    """A tiny checkpoint with some tensors exchanged, or left out for None."""
    state: dict[str, Tensor | None] = {**filled(UNet(TINY)).state_dict(), **changes}
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    return path


def test_the_default_network_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in meta_unet(UNetConfig()).parameters()) == 62_641_347


def test_the_default_network_costs_what_the_published_one_does() -> None:
    unet = meta_unet(UNetConfig())
    x, level = (torch.empty(shape, device="meta") for shape in ((1, 6, 256, 256), (1,)))
    with FlopCounterMode(display=False) as counter:
        unet(x, level)
    assert counter.get_total_flops() / 1e9 == pytest.approx(413.3, rel=0.01)


def test_noise_level_embedding_has_cosines_first() -> None:
    out = noise_level_embedding(torch.tensor([0.25]), 64)[0]
    assert out[0] == pytest.approx(torch.cos(torch.tensor(0.25)))
    assert out[32] == pytest.approx(torch.sin(torch.tensor(0.25)))
    lowest = 0.25 * 10000 ** (-31 / 32)
    assert float(out[63]) == pytest.approx(lowest, rel=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        TINY,
        UNetConfig(channel_mults=(1, 1, 2, 3), res_blocks=1, unshuffle=2),
        UNetConfig(32, (1, 2, 4), 3, attention_levels=(1, 2)),
        UNetConfig(32, (1,), 2, attention_levels=(0,)),
        UNetConfig(32, (2, 2), 1, attention_levels=(0, 1), unshuffle=2),
    ],
    ids=lambda config: f"{config.channel_mults}-{config.attention_levels}-{config.unshuffle}",
)
def test_the_networks_shape_is_read_off_its_tensors(config: UNetConfig) -> None:
    assert config_from_state_dict(meta_unet(config).state_dict()) == config


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (3, 50), (37, 23)])
@pytest.mark.parametrize("inject", [False, True])
def test_pictures_of_any_size_run(
    tiny_refiner: Refiner, size: tuple[int, int], inject: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    condition, x_t, guide_t = torch.randn(3, 2, 3, *size, generator=generator)
    levels = torch.tensor([0.9, 0.5])
    out = tiny_refiner.predict(condition, x_t, levels, guide_t if inject else None)
    assert out.shape == x_t.shape
    assert bool(out.isfinite().all())


def test_injecting_the_state_itself_changes_nothing(tiny_refiner: Refiner) -> None:
    condition, x_t = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.8])
    plain = tiny_refiner.predict(condition, x_t, level)
    assert torch.allclose(tiny_refiner.predict(condition, x_t, level, x_t), plain, atol=1e-5)


def test_unshuffled_networks_run_at_pixel_resolution() -> None:
    config = UNetConfig(32, (1, 2), 1, unshuffle=2)
    refiner = Refiner(filled(UNet(config)), RefinerConfig(unet=config))
    out = refiner.predict(*torch.zeros(2, 1, 3, 30, 21), torch.ones(1))
    assert out.shape == (1, 3, 30, 21)
    assert config.size_multiple == 4


def test_a_checkpoint_loads_with_its_prefix_wrapper_and_noise_table(tmp_path: Path) -> None:
    unet = filled(UNet(TINY))
    state = {f"module.denoise_fn.{k}": v for k, v in unet.state_dict().items()}
    torch.save(state | {"module.gammas": torch.zeros(2000)}, tmp_path / "net.pth")
    loaded = load_refiner(tmp_path / "net.pth").unet.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in unet.state_dict().items())


def test_safetensors_bring_their_own_configuration(tmp_path: Path) -> None:
    config = RefinerConfig(unet=TINY, prediction="v", alpha_bar_min=0.5, tile=128)
    path = tmp_path / "small.safetensors"
    write_safetensors(path, filled(UNet(TINY)).state_dict(), config.to_json())
    loaded = load_refiner(path)
    assert loaded.config == config
    assert loaded.name == "small"
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        load_refiner(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_an_error_that_names_it(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        saved_tiny(path)
    else:
        state = filled(UNet(TINY)).state_dict()
        write_safetensors(path, state, RefinerConfig(unet=TINY).to_json())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=f"cut{suffix}"):
        load_refiner(path)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("reader", ["torch", "pickle"])
def test_a_checkpoint_that_wants_to_run_code_is_refused_unrun(tmp_path: Path, reader: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    payload = {"weights": torch.zeros(2), "evil": Evil(marker)}
    if reader == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(WeightsError, match="asks to run code"):
        load_refiner(path)
    assert not marker.exists()


def test_the_code_of_the_test_above_would_run_in_a_plain_reader(tmp_path: Path) -> None:
    # or the test would prove nothing
    pickle.loads(pickle.dumps(Evil(tmp_path / "marker"))).close()
    assert (tmp_path / "marker").exists()


def test_tensors_of_another_shape_are_named_with_both_shapes(tmp_path: Path) -> None:
    path = saved_tiny(tmp_path / "odd.pth", **{"out.2.bias": torch.zeros(7)})
    with pytest.raises(WeightsError) as caught:
        load_refiner(path)
    assert "odd.pth" in str(caught.value)
    assert "out.2.bias is [7], expected [3]" in str(caught.value)


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    path = saved_tiny(tmp_path / "odd.pth", **{"out.2.bias": None, "extra": torch.zeros(1)})
    with pytest.raises(WeightsError) as caught:
        load_refiner(path)
    assert "missing: out.2.bias" in str(caught.value)
    assert "unexpected: extra" in str(caught.value)


@pytest.mark.parametrize("state", [{"fc.weight": torch.zeros(2, 2)}, {}, {"epoch": 3}, [1, 2]])
def test_a_file_that_is_no_refiner_is_an_error(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError):
        load_refiner(tmp_path / "other.pth")


def test_a_network_with_other_input_channels_is_refused(tmp_path: Path) -> None:
    first = {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}
    with pytest.raises(WeightsError, match="4 input channels"):
        load_refiner(saved_tiny(tmp_path / "four.pth", **first))


def test_a_header_of_a_newer_version_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    write_safetensors(path, {"x": torch.zeros(1)}, {"unheard_of": 1})
    with pytest.raises(WeightsError, match="unheard_of"):
        load_refiner(path)


@pytest.mark.parametrize("side", [6, 40])
def test_a_norm_is_group_norm_at_any_size_and_scales_for_one_level_as_for_many(side: int) -> None:
    torch.manual_seed(0)
    norm = Norm(64)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 64, side, side).contiguous(memory_format=torch.channels_last)
    exact = torch.nn.functional.group_norm(
        x.double().contiguous(), 32, norm.weight.double(), norm.bias.double()
    )
    assert torch.allclose(norm(x).double(), exact, atol=1e-5)
    scale, shift = torch.randn(2, 1, 64).unbind()
    expected = exact * (1 + scale[..., None, None]) + shift[..., None, None]
    for count in (1, 3):
        given = scale.expand(count, -1), shift.expand(count, -1)
        assert torch.allclose(norm.modulated(x, *given).double(), expected, atol=1e-4)
