"""Guides from model files of other programs: side files, ONNX, TorchScript."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from guide_makers import save_onnx, save_script, write_side_file
from torch import Tensor

import d2s_cli as d2s
from d2s_cli.errors import D2SError, DeviceError, UsageError, WeightsError
from d2s_cli.guides.check import check_guide, passed
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.sidefile import SideFile, read_side_file

#: red, green and blue of the known half, and what the models make of them in the hole: twice the
#: mean of half a picture is the colour itself, without the first channel, and the mask adds 0.25
COLOUR = (0.2, 0.4, 0.6)


def half_a_picture(side: int = 32) -> tuple[Tensor, Tensor]:
    image = (torch.tensor(COLOUR) * 2 - 1)[None, :, None, None].expand(1, 3, side, side).clone()
    hole = torch.zeros(1, 1, side, side)
    hole[..., side // 2 :] = 1
    return image, hole


def filled_with(guide: Guide) -> list[float]:
    """The one colour in the hole, in [0, 1]."""
    image, hole = half_a_picture()
    out = guide(image, hole)[0, :, :, 16:]
    assert (out - out[:, :1, :1]).abs().max() < 1e-4
    return [round(float(c), 3) for c in (out[:, 0, 0] + 1) / 2]


def make(kind: str, path: Path, order: list[str], model: dict[str, Any], **side: Any) -> Guide:
    save = save_onnx if kind == "onnx" else save_script
    write_side_file(save(path, order, **model), inputs=order, **side)
    return d2s.load_guide(f"{kind}:{path}")


@pytest.fixture(params=["onnx", "torchscript"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    return str(request.param)


ORDERS = (["image", "mask"], ["mask", "image"], ["image+mask"], ["mask+image"])


@pytest.mark.parametrize("order", ORDERS)
def test_a_model_gets_picture_and_mask_in_its_order(
    tmp_path: Path, kind: str, order: list[str]
) -> None:
    guide = make(kind, tmp_path / "m", order, {})
    assert filled_with(guide) == [0.25, 0.65, 0.85]


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        ({"hole": 0}, [0.0, 0.4, 0.6]),  # the mask is 0 in the hole, and adds nothing there
        ({"channels": "BGR"}, [0.45, 0.65, 0.25]),  # the first channel is blue
        # half of the picture is middle grey: twice the mean is the colour and 0.5
        ({"zeroed": False}, [0.25, 1.0, 1.0]),
        # -0.2 and 0.2 and the mask's 0.25, on a scale from -1
        ({"input_range": "-1..1", "output_range": "-1..1"}, [0.625, 0.525, 0.725]),
        # 0.4 * 255 and 0.25
        ({"input_range": "0..255", "output_range": "0..255"}, [0.001, 0.401, 0.601]),
        ({"input_range": "0..255", "output_range": "0..255", "mask_range": "0..255"}, None),
        ({"output_range": "-1..1"}, [0.625, 0.825, 0.925]),
    ],
)
def test_ranges_sides_and_colours_are_the_side_files(
    tmp_path: Path, kind: str, side: dict[str, Any], expected: list[float] | None
) -> None:
    guide = make(kind, tmp_path / "m", ["image", "mask"], {}, **side)
    assert filled_with(guide) == (expected or [0.25, 0.65, 0.85])


def test_a_model_of_one_size_that_answers_in_levels(tmp_path: Path, kind: str) -> None:
    """As the LaMa file in circulation: 0..1 in, 0..255 out, one size."""
    model: dict[str, Any] = {"out": 255.0}
    if kind == "onnx":
        model["size"] = 32
    guide = make(kind, tmp_path / "m", ["image", "mask"], model, output_range="0..255", size=32)
    assert filled_with(guide) == [0.25, 0.65, 0.85]
    assert any("32 x 32" in note for note in guide.notes)
    checks = list(check_guide(guide))
    assert passed(checks), checks


@pytest.mark.parametrize("claimed", ["0..1", "-1..1"])
def test_levels_taken_for_another_range_are_an_error_that_names_the_key(
    tmp_path: Path, kind: str, claimed: str
) -> None:
    guide = make(kind, tmp_path / "m", ["image", "mask"], {"out": 255.0}, output_range=claimed)
    with pytest.raises(WeightsError, match=rf"guide {kind}:.*m gave numbers far out") as raised:
        guide(*half_a_picture())
    assert f'm.toml says output_range = "{claimed}"' in raised.value.hint
    assert "d2s guides test" in raised.value.hint


def test_a_slight_overshoot_is_clipped(tmp_path: Path) -> None:
    guide = make("torchscript", tmp_path / "m", ["image", "mask"], {"out": 2.0})
    assert filled_with(guide) == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("side", [{}, {"multiple": 16}])
def test_files_keep_the_contract(tmp_path: Path, kind: str, side: dict[str, Any]) -> None:
    checks = list(check_guide(make(kind, tmp_path / "m", ["image", "mask"], {}, **side)))
    assert passed(checks), checks


def test_channels_last_and_a_later_output(tmp_path: Path) -> None:
    order = ["image", "mask"]
    model = {"channels_last": True, "several": True}
    guide = make("torchscript", tmp_path / "m", order, model, layout="NHWC", output=1)
    assert filled_with(guide) == [0.25, 0.65, 0.85]


def test_a_wrong_output_or_layout_names_guide_and_side_file(tmp_path: Path) -> None:
    guide = make("torchscript", tmp_path / "m.pt", ["image", "mask"], {}, output=1)
    with pytest.raises(WeightsError, match=r"torchscript:.*m\.pt gave \[1, 1, 32, 32\]") as raised:
        guide(*half_a_picture())
    assert "m.pt.toml" in raised.value.hint
    guide = make("torchscript", tmp_path / "m.pt", ["image", "mask"], {}, output=2)
    with pytest.raises(WeightsError, match="no picture as output 2"):
        guide(*half_a_picture())


# side files

MISTAKES = [
    ({"hole": None, "output_range": None}, "does not say: output_range, hole"),
    ({"input_range": "0-1"}, "input_range must be one of '0..1', '-1..1', '0..255', not '0-1'"),
    ({"hole": True}, "hole must be one of 0, 1, not true"),
    ({"zeroed": 1}, "zeroed must be one of true, false, not 1"),
    ({"inputs": ["image"]}, 'inputs must be one of ["image", "mask"]'),
    ({"multiple": 0}, "multiple must be a whole number from 1, not 0"),
    ({"size": 12.5}, "size must be a whole number from 0"),
    ({"licence": 3}, "licence must be text"),
    ({"channel": "RGB"}, "did you mean channels?"),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES)
def test_mistakes_in_side_files_are_named(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = write_side_file(tmp_path / "m.onnx", **changes)
    with pytest.raises(WeightsError) as raised:
        read_side_file(tmp_path / "m.onnx")
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_missing_or_unreadable_side_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"m\.onnx\.toml is missing") as raised:
        read_side_file(tmp_path / "m.onnx")
    example = raised.value.hint.partition("\n")[2]
    (tmp_path / "m.onnx.toml").write_text(example)
    assert read_side_file(tmp_path / "m.onnx") == SideFile(["image", "mask"], "0..1", "0..1", 1)
    (tmp_path / "m.onnx.toml").write_text("hole = = 1")
    with pytest.raises(WeightsError, match="cannot read"):
        read_side_file(tmp_path / "m.onnx")


# files


def test_files_that_are_missing_broken_or_something_else(tmp_path: Path, kind: str) -> None:
    with pytest.raises(WeightsError, match="no model file at"):
        d2s.load_guide(f"{kind}:{tmp_path}/none")
    with pytest.raises(UsageError, match="needs a file"):
        d2s.load_guide(f"{kind}:")
    (tmp_path / "words").write_text("words")
    write_side_file(tmp_path / "words")
    with pytest.raises(WeightsError, match="damaged or no"):
        d2s.load_guide(f"{kind}:{tmp_path}/words")
    with pytest.raises(UsageError, match="takes no settings"):
        d2s.load_guide(f"{kind}:{tmp_path}/words", weights=tmp_path / "words")
    with pytest.raises(UsageError, match="has no option tk"):
        d2s.load_guide(f"{kind}:{tmp_path}/words", tk=3)


def test_files_say_what_they_depend_on_and_torchscript_that_it_runs_code(tmp_path: Path) -> None:
    guide = make("torchscript", tmp_path / "m.pt", ["image", "mask"], {})
    assert guide.files == (tmp_path / "m.pt", tmp_path / "m.pt.toml")
    assert "holds code" in guide.notes[0]


@pytest.mark.parametrize(
    ("order", "size", "side", "said"),
    [
        (["image", "mask"], 32, {}, "takes size = 32 only"),
        (["image", "mask"], 32, {"size": 64}, "takes size = 32 only"),
        (["image+mask"], 0, {"inputs": ["image", "mask"]}, "takes 1 inputs, not 2"),
        (["image", "mask"], 0, {"inputs": ["mask", "image"]}, "takes 3 channels only"),
        (["image", "mask"], 0, {"output": 1}, "no output = 1"),
    ],
)
def test_what_an_onnx_file_says_of_itself_is_compared(
    tmp_path: Path, order: list[str], size: int, side: dict[str, Any], said: str
) -> None:
    pytest.importorskip("onnxruntime")
    path = save_onnx(tmp_path / "m.onnx", order, size)
    write_side_file(path, **{"inputs": order} | side)
    with pytest.raises(WeightsError) as raised:
        d2s.load_guide(f"onnx:{path}")
    assert said in str(raised.value)


def test_an_onnx_file_that_takes_levels_gets_whole_numbers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    kind = pytest.importorskip("onnx").TensorProto.UINT8
    path = save_onnx(tmp_path / "m.onnx", ["image", "mask"], kind=kind)
    levels = {"output_range": "0..255", "mask_range": "0..255"}
    write_side_file(path, **levels)
    with pytest.raises(WeightsError, match=r"input_range is 0\.\.255"):
        d2s.load_guide(f"onnx:{path}")
    write_side_file(path, **levels, input_range="0..255")
    assert filled_with(d2s.load_guide(f"onnx:{path}")) == [0.25, 0.65, 0.85]


def test_without_onnxruntime_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    write_side_file(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(WeightsError, match="not installed") as raised:
        d2s.load_guide(f"onnx:{tmp_path}/m.onnx")
    assert "d2s[onnx]" in raised.value.hint


def test_a_named_device_is_never_swapped_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    path = save_onnx(tmp_path / "m.onnx", ["image", "mask"])
    write_side_file(path)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError):
            d2s.load_guide(f"onnx:{path}", device="cuda")
    monkeypatch.setattr("d2s_cli.runtime._pick_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="does not run on cuda"):
        d2s.load_guide(f"onnx:{path}", device="cuda")
    assert filled_with(d2s.load_guide(f"onnx:{path}", device="auto")) == [0.25, 0.65, 0.85]


def test_code_in_torchscript_runs_only_behind_its_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_script(tmp_path / "m.pt", ["image", "mask"])
    write_side_file(path)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("code was loaded"))
    for name in (str(path), "telea", "palette", f"onnx:{path}"):
        weights = None if ":" in name else path
        with pytest.raises((D2SError, ImportError)):
            d2s.load_guide(name, weights=weights)
    with pytest.raises(D2SError):
        d2s.load_refiner(path)
