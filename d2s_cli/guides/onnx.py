"""ONNX files as guides, run by onnxruntime (the extra "onnx"). They hold numbers and a graph of
known operations, no code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2s_cli.errors import DeviceError, WeightsError
from d2s_cli.guides.model_file import ModelFileGuide, model_path
from d2s_cli.guides.sidefile import SideFile, read_side_file, side_path
from d2s_cli.runtime import pick

KIND = "onnx"
#: number formats of inputs that pictures are given in
FORMATS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
#: files beside a model that hold its larger tensors
EXTERNAL = (".data", "_data")
CUDA = "CUDAExecutionProvider"
#: onnxruntime's level "error"; below it, it writes to stderr by itself
QUIET = 3


class OnnxGuide(ModelFileGuide):
    """An ONNX model, called with the tensors that its side file names."""

    def __init__(self, path: Path, side: SideFile, device: torch.device) -> None:
        super().__init__(KIND, path, side, torch.device("cpu"))  # tensors pass through numpy
        more = [path.with_name(path.name + end) for end in EXTERNAL]
        self.files += tuple(file for file in more if file.is_file())
        self.session = open_session(path, device)
        _check_inputs(path, side, self.session.get_inputs())
        outputs = self.session.get_outputs()
        if side.output >= len(outputs):
            raise WeightsError(
                f"{path} has {len(outputs)} outputs, so there is no output = {side.output}",
                f"change it in {side_path(path)}",
            )
        self.output = outputs[side.output].name

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        feed = {}
        for put, tensor in zip(self.session.get_inputs(), tensors, strict=True):
            numbers = tensor.numpy()
            if put.type == "tensor(uint8)":
                numbers = np.rint(numbers)
            feed[put.name] = numbers.astype(FORMATS[put.type])
        try:
            (output,) = self.session.run([self.output], feed)
        except failures() as error:
            raise self.failure(error) from error
        return torch.from_numpy(np.asarray(output, np.float32))


def load(text: str, device: str) -> OnnxGuide:
    """Load `onnx:TEXT`.

    Raises:
        WeightsError: no onnxruntime, no such file, no ONNX, or no side file that fits it.
        DeviceError: a GPU was named, and this onnxruntime has none.
    """
    path = model_path(KIND, text)
    side = read_side_file(path)
    return OnnxGuide(path, side, _device(device))


def onnxruntime_available() -> bool:
    """True if onnxruntime loads."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(
            "onnx: needs the package onnxruntime, which is not installed",
            "try: pip install 'd2s[onnx]'",
        ) from error
    return onnxruntime


def _device(name: str) -> torch.device:
    """Where the model runs; "auto" takes what this onnxruntime has."""
    device = pick(name, "fp32").device
    if device.type == "cuda" and CUDA in _onnxruntime().get_available_providers():
        return device
    if device.type != "cpu" and name != "auto":
        raise DeviceError(
            f"this onnxruntime does not run on {device}",
            "try: --device auto or cpu, or for CUDA: pip install onnxruntime-gpu",
        )
    return torch.device("cpu")


def open_session(path: Path, device: torch.device) -> Any:
    """A model, ready to run.

    Raises:
        WeightsError: no onnxruntime, or the file is no ONNX.
    """
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = torch.get_num_threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, (CUDA, {"device_id": device.index or 0}))
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except failures() as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{path} is damaged or no ONNX file: {reason}") from error


def failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its errors share no base class of their own."""
    state = _onnxruntime().capi.onnxruntime_pybind11_state
    found = (getattr(state, name) for name in dir(state))
    own = [f for f in found if isinstance(f, type) and issubclass(f, Exception)]
    return (*own, RuntimeError, ValueError)


def _check_inputs(path: Path, side: SideFile, inputs: Sequence[Any]) -> None:
    """Raise WeightsError where the model's own description contradicts the side file."""
    hint = f"look at {side_path(path)}; the model takes: " + ", ".join(
        f"{put.name} {put.type} {put.shape}" for put in inputs
    )
    if len(inputs) != len(side.inputs):
        raise WeightsError(f"{path} takes {len(inputs)} inputs, not {len(side.inputs)}", hint)
    for put, name in zip(inputs, side.inputs, strict=True):
        if put.type not in FORMATS:
            raise WeightsError(f"{path} takes {put.type}, which d2s cannot give", hint)
        span = side.mask_range if name == "mask" else side.input_range
        if put.type == "tensor(uint8)" and name != "mask" and span != "0..255":
            raise WeightsError(f"{path} takes whole numbers, so input_range is 0..255", hint)
        channels = sum({"image": 3, "mask": 1}[part] for part in name.split("+"))
        size = side.size or None
        expected = [None, channels, size, size]
        if side.layout == "NHWC":
            expected = [None, size, size, channels]
        if len(put.shape) != 4:
            raise WeightsError(f"{path} takes no pictures with 4 axes", hint)
        for fixed, ours in zip(put.shape[1:], expected[1:], strict=True):
            # text in a shape is the name of an axis of any length
            if isinstance(fixed, int) and fixed != ours:
                what = f"size = {fixed}" if ours in (size, None) else f"{fixed} channels"
                raise WeightsError(f"{path} takes {what} only, by its own description", hint)
