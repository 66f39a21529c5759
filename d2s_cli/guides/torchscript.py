"""TorchScript files as guides. Such a file is a program: loading it runs what its maker wrote.

So it is loaded for `--guide torchscript:FILE` alone, never because of how a file looks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2s_cli.errors import WeightsError
from d2s_cli.guides.model_file import ModelFileGuide, model_path
from d2s_cli.guides.sidefile import SideFile, read_side_file
from d2s_cli.runtime import pick

KIND = "torchscript"
_jit: Any = torch.jit


class TorchScriptGuide(ModelFileGuide):
    """A module saved by torch.jit.save, called with the tensors that its side file names."""

    def __init__(self, path: Path, side: SideFile, device: torch.device) -> None:
        super().__init__(KIND, path, side, device)
        self.module = open_module(path, device)

    @property
    def notes(self) -> tuple[str, ...]:
        return ("the file holds code, which runs; use files that you trust", *super().notes)

    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        try:
            # optimising takes seconds for every new size, more than it saves
            with _jit.optimized_execution(False):
                output = self.module(*tensors)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self.failure(error) from error
        outputs = [output] if isinstance(output, Tensor) else list(output)
        wanted = self.side_file.output
        if wanted >= len(outputs) or not isinstance(outputs[wanted], Tensor):
            raise WeightsError(
                f"guide {self.name} has no picture as output {wanted}",
                f"change output in {self.files[1]}",
            )
        chosen: Tensor = outputs[wanted]
        return chosen


def open_module(path: Path, device: torch.device) -> Any:
    """The module of a file, ready to run. Runs code from the file.

    Raises:
        WeightsError: the file is no TorchScript.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit as a whole
            return _jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{path} is damaged or no TorchScript file: {reason}") from error


def load(text: str, device: str) -> TorchScriptGuide:
    """Load `torchscript:TEXT`. Runs code from the file.

    Raises:
        WeightsError: no such file, no TorchScript, or no side file that makes sense.
    """
    path = model_path(KIND, text)
    side = read_side_file(path)
    return TorchScriptGuide(path, side, pick(device, "fp32").device)
