"""A guide of another package: its errors get its name and become errors of d2s."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from d2s_cli.errors import D2SError, WeightsError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.plugins import Plugin


class GuardedGuide(Guide):
    """Calls another guide.

    Args:
        plugin: where it comes from.
        guide: what the plug-in returned.

    Raises:
        WeightsError: it is no Guide.
    """

    def __init__(self, plugin: Plugin, guide: object) -> None:
        if not isinstance(guide, Guide):
            raise WeightsError(
                f"guide {plugin.name} of {plugin.origin} is of type {type(guide).__name__},"
                " not a guide",
                "what it registers has to return a d2s_cli.guides.contract.Guide",
            )
        self.plugin, self.guide = plugin, guide
        self.name = plugin.name
        self.prefers_whole_picture = guide.prefers_whole_picture
        self.first, self.side, self.files = guide.first, guide.side, tuple(guide.files)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.guide.notes)

    @property
    def cure(self) -> str:
        return "this is for the maker of " + self.plugin.origin + f"\n{super().cure}"

    @property
    def batches(self) -> bool:
        return self.guide.batches

    def fill(self, image: Tensor, hole: Tensor, seed: int) -> Tensor:
        with self._guarding():
            return self.guide.fill(image, hole, seed)

    def fill_each(self, image: Tensor, hole: Tensor, seeds: Sequence[int]) -> Tensor:
        with self._guarding():
            return self.guide.fill_each(image, hole, seeds)

    @contextlib.contextmanager
    def _guarding(self) -> Iterator[None]:
        self.guide.tell = self.tell
        try:
            yield
        except (D2SError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # other people's code may raise anything
            raise self.plugin.failure("failed", error) from error
