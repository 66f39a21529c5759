"""What model files of other programs have in common: the side file, and one picture at a time."""

from __future__ import annotations

import shlex
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.network import NetworkGuide
from d2s_cli.guides.sidefile import SideFile, side_path


class ModelFileGuide(NetworkGuide):
    """A guide that another program's model file predicts.

    Args:
        kind: its prefix after --guide.
        path: the model.
        side: what its side file says.
        device: where it runs.
    """

    def __init__(self, kind: str, path: Path, side: SideFile, device: torch.device) -> None:
        super().__init__(device)
        self.name = f"{kind}:{path}"
        self.files = (path, side_path(path))
        self.side_file = side
        # a model of one size needs no padding beyond it
        self.multiple = self.smallest = 1 if side.size else side.multiple
        self.side = side.size

    @property
    def cure(self) -> str:
        return (
            f"which range do the model's numbers have? {self.files[1]} says"
            f' output_range = "{self.side_file.output_range}"\n'
            f"change it, then try: d2s guides test {shlex.quote(self.name)}"
        )

    @abstractmethod
    def run(self, tensors: Sequence[Tensor]) -> Tensor:
        """One picture through the model: its inputs in order, the picture that it gives."""

    def predict(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        # one at a time, since many exports know no other batch
        items = range(len(image))
        return torch.cat([self._predict_one(image[i : i + 1], hole[i : i + 1]) for i in items])

    def _predict_one(self, image: Tensor, hole: Tensor) -> Tensor:
        output = self.run(self.side_file.tensors(image, hole))
        expected = list(image.shape)
        if self.side_file.layout == "NHWC":
            expected = [1, *image.shape[2:], 3]
        if list(output.shape) != expected:
            raise WeightsError(
                f"guide {self.name} gave {list(output.shape)} where {expected} was expected",
                f"look at output, layout, multiple and size in {self.files[1]}",
            )
        return self.side_file.picture(output)

    def failure(self, error: BaseException) -> WeightsError:
        """What the program that ran the model said, with the guide's name."""
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else type(error).__name__
        return WeightsError(
            f"guide {self.name} failed: {reason}", f"does {self.files[1]} fit the model?"
        )


def model_path(kind: str, text: str) -> Path:
    """The file after the prefix.

    Raises:
        UsageError: no file is named.
        WeightsError: it is not there.
    """
    if not text:
        raise UsageError(f"{kind}: needs a file", f"try: --guide {kind}:FILE")
    path = Path(text).expanduser()
    if not path.is_file():
        raise WeightsError(f"no model file at {path}", f"try: --guide {kind}:FILE")
    return path
