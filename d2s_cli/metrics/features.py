"""Networks that turn pictures into features: FID's Inception, or any that the user gives."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s_cli.errors import DeviceError, InputError, UsageError, WeightsError
from d2s_cli.guides.onnx import failures, open_session
from d2s_cli.guides.torchscript import open_module
from d2s_cli.metrics.distances import Features
from d2s_cli.metrics.inception import load_inception, prepare
from d2s_cli.metrics.presets import Preset


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Extractor(ABC):
    """Pictures to features.

    Attributes:
        name: what the features are, for reports.
        sha256: of the weights.
        transform: how pictures are prepared; with `sha256` it decides the features.
    """

    name: str
    sha256: str
    transform: str

    @abstractmethod
    def prepare(self, picture: NDArray[np.uint8]) -> Tensor:
        """What the network sees of one picture H x W x 3; safe to call from several threads."""

    @abstractmethod
    def _features(self, batch: Tensor) -> Tensor | NDArray[Any]:
        """Features of prepared pictures of one size, N first."""

    def logits(self, features: Features) -> NDArray[np.float32]:
        """Class logits of features, for the Inception Score.

        Raises:
            UsageError: the network has no classes.
        """
        raise UsageError(
            f"the Inception Score is not defined on {self.name}", "leave out --features"
        )

    def __call__(self, prepared: Sequence[Tensor]) -> Features:
        """Features N x D of prepared pictures; pictures of one size run together."""
        rows: list[Any] = [None] * len(prepared)
        sizes = [tuple(one.shape) for one in prepared]
        for size in dict.fromkeys(sizes):
            numbers = [i for i, other in enumerate(sizes) if other == size]
            found = self._features(torch.stack([prepared[i] for i in numbers]))
            for i, row in zip(numbers, _as_rows(found, len(numbers), self.name), strict=True):
                rows[i] = row
        if len({len(row) for row in rows}) > 1:
            raise InputError(
                f"{self.name} gives features of different lengths for pictures of different sizes",
                "give pictures of one size, or a network that averages over space",
            )
        return np.stack(rows)


def _as_rows(found: Tensor | NDArray[Any], count: int, name: str) -> Features:
    """N x D float32; maps are averaged over space."""
    array = found.float().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
    if array.ndim == 4:
        array = array.mean(axis=(2, 3))
    if array.ndim != 2 or len(array) != count:
        raise WeightsError(
            f"{name} gives an array of shape {array.shape} for {count} picture(s)",
            "a network must give N x D, or N x D x h x w, which is averaged over space",
        )
    return np.ascontiguousarray(array, np.float32)


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Inference with full float32 convolutions; GPUs shorten them to TF32 otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"out of memory on {device}", "try: --batch-size 1, or --device cpu"
        ) from error
    finally:
        torch.backends.cudnn.allow_tf32 = before


class InceptionFeatures(Extractor):
    """The 2048 features of FID.

    Args:
        path: weights.
        preset: how pictures are resized and scaled.
        device: where it runs.
    """

    name = "Inception 2015"

    def __init__(self, path: Path, preset: Preset, device: torch.device) -> None:
        self.preset, self.device = preset, device
        self.network = load_inception(path, device)
        self.sha256 = file_hash(path)
        self.transform = f"{preset.resize}, {'centred' if preset.centred else 'unit'}"

    def prepare(self, picture: NDArray[np.uint8]) -> Tensor:
        return prepare(picture, self.preset)

    def _features(self, batch: Tensor) -> Tensor:
        with _exact(self.device):
            moved = batch.to(self.device).contiguous(memory_format=torch.channels_last)
            features: Tensor = self.network(moved)
            return features

    def logits(self, features: Features) -> NDArray[np.float32]:
        return self.network.logits(features)


class TorchScriptFeatures(Extractor):
    """A TorchScript network: float32 RGB N x 3 x H x W in [0, 1] at the pictures' own size.

    Loading it runs code from the file.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.name, self.device = f"torchscript:{path.name}", device
        self.sha256, self.transform = file_hash(path), "0 to 1"
        self.network = open_module(path, device)

    def prepare(self, picture: NDArray[np.uint8]) -> Tensor:
        return _unit(picture)

    def _features(self, batch: Tensor) -> Tensor:
        try:
            with _exact(self.device):
                found = self.network(batch.to(self.device))
        except RuntimeError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise WeightsError(
                f"{self.name} failed on pictures of {batch.shape[3]}x{batch.shape[2]}: {reason}",
                "it gets float32 RGB, N x 3 x H x W, 0 to 1",
            ) from error
        if not isinstance(found, Tensor):
            raise WeightsError(f"{self.name} gives a {type(found).__name__}, not a tensor")
        return found


class OnnxFeatures(Extractor):
    """An ONNX network: float32 RGB N x 3 x H x W in [0, 1]; pictures are resized (area, else
    linear) where its input has a fixed size."""

    def __init__(self, path: Path) -> None:
        self.name, self.sha256 = f"onnx:{path.name}", file_hash(path)
        self.session = open_session(path, torch.device("cpu"))
        self.input = self.session.get_inputs()[0]
        shape = self.input.shape
        if len(shape) != 4 or (shape[1] not in (3, None) and not isinstance(shape[1], str)):
            raise WeightsError(f"{self.name} takes {shape}, not pictures N x 3 x H x W")
        fixed = isinstance(shape[2], int) and isinstance(shape[3], int)
        self.size = (int(shape[3]), int(shape[2])) if fixed else None
        self.transform = f"0 to 1, {self.size or 'own size'}"

    def prepare(self, picture: NDArray[np.uint8]) -> Tensor:
        if self.size is None or picture.shape[1::-1] == self.size:
            return _unit(picture)
        smaller = picture.shape[1] > self.size[0] and picture.shape[0] > self.size[1]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        return _unit(np.asarray(cv2.resize(picture, self.size, interpolation=how), np.uint8))

    def _features(self, batch: Tensor) -> NDArray[Any]:
        fixed = isinstance(self.input.shape[0], int)
        parts = torch.split(batch, int(self.input.shape[0])) if fixed else (batch,)
        try:
            found = [self.session.run(None, {self.input.name: part.numpy()})[0] for part in parts]
        except failures() as error:
            raise WeightsError(f"{self.name} failed: {error}") from error
        return np.concatenate(found)


def _unit(picture: NDArray[np.uint8]) -> Tensor:
    planes = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    return planes.float() / 255


def load_features(spec: str, device: torch.device) -> Extractor:
    """The network named by --features, torchscript:FILE or onnx:FILE.

    Raises:
        UsageError: another kind.
        WeightsError: not there, or not loadable.
    """
    kind, _, name = spec.partition(":")
    if kind not in ("torchscript", "onnx") or not name:
        raise UsageError(f"unknown --features {spec!r}", "one of: torchscript:FILE, onnx:FILE")
    path = Path(name)
    if not path.is_file():
        raise WeightsError(f"no network at {path}", f"try: --features {kind}:FILE")
    return OnnxFeatures(path) if kind == "onnx" else TorchScriptFeatures(path, device)
