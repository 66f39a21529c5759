"""What every guide is: a function from known pixels and a hole to a filled picture.

`Guide.__call__` is the only way in. It hides the hole's old content from the guide, puts the known
pixels back whatever the guide did, and turns NaN and nonsense into an error with the guide's name.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.images.convert import from_unit_range, to_unit_range

#: Where half of a fill is further from 0 than this, it is more than overshoot: another range, or
#: broken weights. Levels of 0 to 255 that are taken for 0..1 or -1..1 are that far out, unless they
#: are all but black.
FAR = 10.0
#: A number that no picture has in any range, 0..255 taken for 0..1 included: one is enough.
ABSURD = 1000.0

#: uint8 H x W x 3, bool H x W, seed -> uint8 H x W x 3
PictureFill = Callable[[NDArray[Any], NDArray[np.bool_], int], NDArray[Any]]


class Guide(ABC):
    """A named first stage.

    Attributes:
        name: as typed after --guide.
        prefers_whole_picture: True if it should see the whole photograph rather than a window
            round the hole (patch search copies from anywhere).
        first: a guide whose result this one corrects; `fill` finds it in the hole.
        side: the one size, squared, that it works at inside; 0 if it takes any.
        files: that its result depends on, apart from d2s: weights, a model, its side file.
        tell: given a line for people now and then by guides that take long.
    """

    name: str = ""
    prefers_whole_picture: bool = False
    first: Guide | None = None
    side: int = 0
    files: tuple[Path, ...] = ()
    tell: Callable[[str], None] = staticmethod(lambda text: None)

    @property
    def notes(self) -> tuple[str, ...]:
        """For people, said once a run: limits, and what else they should know beforehand."""
        return ()

    @property
    def cure(self) -> str:
        """For people: what to do when its result is no picture."""
        return f"try: d2s guides test {shlex.quote(self.name)}"

    @abstractmethod
    def fill(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        """Fill the hole; `image` has zeros there, or the first guide's result. Shapes and ranges
        as `__call__`."""

    @property
    def batches(self) -> bool:
        """Whether `fill_each` does more than to fill one picture after the other."""
        return type(self).fill_each is not Guide.fill_each and as_near(self, "fill_each", "fill")

    def fill_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        """Fill several pictures, each with a seed of its own: each result is `fill`'s with that
        seed, up to rounding. Guides that can do it in one go have their own."""
        items = zip(image, hole, seeds, strict=True)
        return torch.cat([self.fill(x[None], h[None], seed) for x, h, seed in items])

    def __call__(
        self,
        image: Tensor,
        hole: Tensor,
        seed: int | Sequence[int] = 0,
        candidate: Tensor | None = None,
    ) -> Tensor:
        """Fill the hole and leave the rest exactly as it is.

        Args:
            image: N x 3 x H x W, RGB, [-1, 1], float32.
            hole: N x 1 x H x W; 0.5 and above is hole.
            seed: for guides that draw random numbers; one for every item of the batch, or as many
                as there are items, each with its own.
            candidate: a first result, like `image`, for guides that correct one; None has that of
                the guide `first`, if there is one.

        Returns:
            Like `image`.

        Raises:
            UsageError: shapes do not fit.
            WeightsError: the guide gave NaN, infinity, numbers far out of range, or another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise UsageError(f"image must be N x 3 x H x W, not {list(image.shape)}")
        if tuple(hole.shape) != (len(image), 1, *image.shape[2:]):
            raise UsageError(f"hole {list(hole.shape)} does not fit image {list(image.shape)}")
        if isinstance(seed, Sequence) and len(seed) != len(image):
            raise UsageError(f"{len(seed)} seeds do not fit {len(image)} images")
        inside = hole >= 0.5
        hidden = torch.where(inside, 0.0, image)
        if candidate is None and self.first is not None:
            candidate = self.first(hidden, hole, seed)
        if candidate is not None:
            hidden = torch.where(inside, candidate, image)
        if not isinstance(seed, Sequence):
            filled = self.fill(hidden, inside.float(), seed)
        elif self.batches:
            filled = self.fill_each(hidden, inside.float(), seed)
        else:
            filled = Guide.fill_each(self, hidden, inside.float(), seed)
        if filled.shape != image.shape or not bool(torch.isfinite(filled).all()):
            raise WeightsError(
                f"guide {self.name} gave no usable picture (NaN, infinity or another size)",
                self.cure,
            )
        filled = filled.to(image)
        for item, where in zip(filled, inside, strict=True):
            self._check_range(item[:, where[0]])
        return torch.where(inside, filled.clamp(-1, 1), image)

    def _check_range(self, made: Tensor) -> None:
        """Raise WeightsError if what was made in a hole is far out of [-1, 1]."""
        if not made.numel():
            return
        sizes = made.abs()
        usual, most = float(sizes.median()), float(sizes.max())
        if usual > FAR or most > ABSURD:
            raise WeightsError(
                f"guide {self.name} gave numbers far out of range in the hole: half of them are"
                f" {usual:.3g} and more, the largest {most:.3g}, where -1 to 1 are due",
                self.cure,
            )


def as_near(guide: Guide, method: str, other: str) -> bool:
    """Whether a guide has a method from the same class as another one, or from one further down.

    Who changes a guide in a subclass may know the older of two methods alone; then the other one
    would pass over the change.
    """
    owners = (next(c for c in type(guide).__mro__ if name in vars(c)) for name in (method, other))
    return issubclass(next(owners), next(owners))


class PictureGuide(Guide):
    """A guide made of a function on 8-bit pictures, one at a time."""

    def __init__(self, name: str, fill: PictureFill, prefers_whole_picture: bool = False) -> None:
        self.name = name
        self._fill = fill
        self.prefers_whole_picture = prefers_whole_picture

    def fill_picture(
        self, picture: NDArray[Any], hole: NDArray[np.bool_], seed: int = 0
    ) -> NDArray[Any]:
        """uint8 H x W x 3 and bool H x W to uint8 H x W x 3; known pixels untouched."""
        if not hole.any():
            return picture.copy()
        if hole.all():
            raise UsageError(
                f"guide {self.name} needs known pixels, and the hole covers everything"
            )
        hidden = np.where(hole[..., None], np.uint8(0), picture)
        filled = self._fill(np.ascontiguousarray(hidden), hole, seed)
        return np.where(hole[..., None], filled, picture)

    def fill(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        pictures = from_unit_range(image)
        holes = hole[:, 0].cpu().numpy().astype(bool)
        filled = [self.fill_picture(p, h, seed) for p, h in zip(pictures, holes, strict=True)]
        return to_unit_range(np.stack(filled))
