"""What guides with a network share: loading, sizes, ranges and noise.

A guide's file says what is its own: the network, which tensors of a checkpoint are its, and
`predict`. This module gives it pictures of a size it can take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2s_cli.errors import WeightsError
from d2s_cli.guides.contract import Guide, as_near
from d2s_cli.weights.reading import check_fit, read_weights
from d2s_cli.weights.recognise import recognise
from d2s_cli.weights.store import how_to_check

#: image and hole of a size that the network takes -> the filled image
Predict = Callable[[Tensor, Tensor], Tensor]


class NetworkGuide(Guide):
    """A guide whose result a network predicts.

    Attributes:
        multiple: height and width must be multiples of this; others are mirrored up to it.
        smallest: least height and width.
        largest: pictures with a longer side are filled at reduced size; 0 if there is no limit.
        device: where the networks are.
    """

    multiple: int = 8
    smallest: int = 8
    largest: int = 0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        kind = type(self)
        if (kind.predict, kind.predict_each, kind.fill) == _INHERITED:
            # each of the first two has the other to fall back on
            raise TypeError(f"{kind.__name__} has neither predict nor predict_each")
        self.device = torch.device(device)

    @property
    def sizes(self) -> str:
        """For people: what happens to pictures of other sizes."""
        if self.side:
            return f"works at {self.side} x {self.side}: larger windows are filled at that size"
        text = f"any size (mirrored to a multiple of {self.multiple})"
        return text + (f", sides over {self.largest} at reduced size" if self.largest else "")

    @property
    def notes(self) -> tuple[str, ...]:
        return (self.sizes,)

    @property
    def cure(self) -> str:
        return how_to_check(self.files[0]) if self.files else super().cure

    def predict(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        """Fill pictures of a size that the network takes, on `device`, without gradients.

        A guide has `predict`, or `predict_each` if it can fill pictures with a seed each in one go.

        Args:
            image: N x 3 x H x W, [-1, 1], zeros in the hole.
            hole: N x 1 x H x W, 0 or 1.
            seed: for `seeded_noise`.

        Returns:
            Like `image`. What it says about known pixels is not used.
        """
        return self.predict_each(image, hole, [seed] * len(image))

    def predict_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        """As `predict`, each picture with its own seed. A picture's result must not depend on the
        others."""
        items = zip(image, hole, seeds, strict=True)
        return torch.cat([self.predict(x[None], h[None], seed) for x, h, seed in items])

    @property
    def batches(self) -> bool:
        own = type(self).predict_each is not NetworkGuide.predict_each
        return own and as_near(self, "predict_each", "predict") and super().batches

    def fill(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        return self._fitted(image, hole, lambda x, h: self.predict(x, h, seed))

    def fill_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        return self._fitted(image, hole, lambda x, h: self.predict_each(x, h, seeds))

    def _fitted(self, image: Tensor, hole: Tensor, predict: Predict) -> Tensor:
        """Reduce or pad, predict, and undo it."""
        image, hole = image.to(self.device), hole.to(self.device)
        limit = self.side or self.largest
        with torch.inference_mode():
            if limit and max(image.shape[-2:]) > limit:
                return self._reduced(image, hole, predict, limit)
            return self._padded(image, hole, predict)

    def _padded(self, image: Tensor, hole: Tensor, predict: Predict) -> Tensor:
        """Mirror at the bottom and right up to a size that the network takes."""
        height, width = image.shape[-2:]
        if self.side:
            down, right = self.side - height, self.side - width
        else:
            down = max(-height % self.multiple, self.smallest - height)
            right = max(-width % self.multiple, self.smallest - width)
        padded = [extend_symmetric(t, down, right) for t in (image, hole)]
        return predict(padded[0], padded[1])[..., :height, :width].clone()

    def _reduced(self, image: Tensor, hole: Tensor, predict: Predict, limit: int) -> Tensor:
        """Fit the longer side into the limit, fill, and scale the result back."""
        height, width = image.shape[-2:]
        scale = limit / max(height, width)
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        image, known = reduce_known(image, 1 - hole, small)
        hole = (known < 1 - 1e-6).to(hole)
        image = image * (1 - hole)
        filled = torch.where(hole > 0, self._padded(image, hole, predict), image)
        return F.interpolate(filled, (height, width), mode="bicubic", align_corners=False)


_INHERITED = (NetworkGuide.predict, NetworkGuide.predict_each, NetworkGuide.fill)


def reduce_known(image: Tensor, known: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A smaller picture of the known pixels alone: hidden ones must not darken their neighbours.

    Args:
        image: N x 3 x H x W, zeros where nothing is known.
        known: N x 1 x H x W, 0 or 1.
        size: height and width of the result.

    Returns:
        The means of the known pixels, and how large a share of each area was known.
    """
    share = F.interpolate(known, size, mode="area")
    return F.interpolate(image, size, mode="area") / share.clamp(min=1e-6), share


def extend_symmetric(x: Tensor, down: int, right: int) -> Tensor:
    """Mirror N x C x H x W at the bottom and right, the edge row repeated (numpy's "symmetric"),
    as often as needed."""
    for axis, more in ((-2, down), (-1, right)):
        if more:
            length = x.shape[axis]
            index = np.pad(np.arange(length), (0, more), mode="symmetric")
            x = x.index_select(axis, torch.from_numpy(index).to(x.device))
    return x


def seeded_noise(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each item of a batch, from its own seed, so that an item's result depends
    neither on its place in the batch nor on the other items."""
    states = [np.random.SeedSequence(s % 2**64).generate_state(1, np.uint64)[0] for s in seeds]
    return [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]


def for_each(seed: int | Sequence[int], count: int) -> Sequence[int]:
    """One seed for every item of a batch as a list, or the list that was given."""
    return seed if isinstance(seed, Sequence) else [seed] * count


def draw_normal(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, one item of `shape` from each generator: N x shape, on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])


#: gives standard normal numbers of a shape, N x C x H x W
NoiseSource = Callable[[tuple[int, ...]], Tensor]


def seeded_source(seeds: Sequence[int]) -> NoiseSource:
    """A source of noise for samplers that draw many times; see `seeded_noise`."""
    generators = seeded_noise(seeds)
    return lambda shape: draw_normal(generators, shape[1:])


def read_files(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of one checkpoint or of several that belong together.

    Raises:
        WeightsError: a file is unreadable, or two give the same tensor.
    """
    merged: dict[str, Tensor] = {}
    for path in paths:
        tensors, _ = read_weights(path)
        if twice := sorted(merged.keys() & tensors.keys()):
            raise WeightsError(f"{path} repeats tensors of the other file: {', '.join(twice[:3])}")
        merged |= tensors
    return merged


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def prefix_before(tensors: Mapping[str, Tensor], suffix: str) -> str | None:
    """What stands before a network's own names, found by a name that only this network has.

    The shortest where there are several (copies of a network are kept under longer names); None
    if no name ends in `suffix`.
    """
    found = [k.removesuffix(suffix) for k in tensors if k.endswith(suffix)]
    whole = [prefix for prefix in found if prefix == "" or prefix.endswith(".")]
    return min(whole, key=len, default=None)


def length(tensors: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    """How long an axis of a tensor is.

    Raises:
        KeyError: there is no such tensor, or it has no such axis or nothing in it.
    """
    size = tensors[name].shape
    if axis >= len(size) or not tensors[name].numel():
        raise KeyError(name)
    return size[axis]


def count_items(names: Iterable[str], prefix: str) -> int:
    """How many of a numbered list of layers have tensors: the different N in `prefix`N."""
    numbers = {n.removeprefix(prefix).partition(".")[0] for n in names if n.startswith(prefix)}
    return sum(number.isdigit() for number in numbers)


@contextlib.contextmanager
def recognising(
    path: Path, what: str, expected: str, tensors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Turn a tensor that is missing while sizes are read off a checkpoint into a WeightsError.

    Args:
        path: the file, for the message.
        what: what it should be, such as "MAT generator".
        expected: names that such a file has, for people.
        tensors: what it does have.
    """
    try:
        yield
    except KeyError as missing:
        known = recognise({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        instead = f"it holds {known.about}\n" if known else ""
        raise WeightsError(
            f"{path} holds no {what}: the tensor {missing} is missing",
            f"{instead}expected names: {expected}\n{some_names(tensors)}",
        ) from None


def fit(network: nn.Module, state: Mapping[str, Tensor], path: Path, device: torch.device) -> None:
    """Give a network made on the "meta" device its tensors, strictly, as float32.

    Counts of training batches, which some files lack, are never read when filling a hole.

    Raises:
        WeightsError: names or shapes differ; the message lists them.
    """
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    counts = {k: torch.tensor(0) for k in expected if k.endswith(".num_batches_tracked")}
    state = counts | dict(state)
    check_fit(path, expected, state)
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    network.load_state_dict(floats, assign=True)
    network.eval().requires_grad_(False).to(device)


def some_names(tensors: Mapping[str, Tensor], count: int = 4) -> str:
    """For errors: what a file holds instead of what was looked for."""
    shown = ", ".join(list(tensors)[:count]) or "none that belong to it"
    return f"found: {shown} ({len(tensors)} tensors)"


def from_zero_to_one(image: Tensor, hole: Tensor) -> Tensor:
    """[-1, 1] to [0, 1] with zeros in the hole, as many published networks want it."""
    return (image + 1) / 2 * (1 - hole)
