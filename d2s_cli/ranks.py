"""Several processes at one task, as torch's launcher starts them; one alone is the first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

#: how long the others wait while the first one saves, samples and validates
PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class Ranks:
    """This process among those at work.

    Attributes:
        rank: 0 for the first one.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device | None = None) -> Ranks:
        """The group that the launcher's variables tell of; it is made if it is not there yet.

        Args:
            device: where tensors lie that are added up; NCCL does it for those on NVIDIA's GPUs.
        """
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 or "RANK" not in os.environ:
            return cls()
        on_cuda = device is not None and device.type == "cuda"
        if on_cuda:
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    @staticmethod
    def leave() -> None:
        """End the group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value at the first rank, in the order of ranks; nothing elsewhere."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(value, found)
        return found or []

    def share(self, value: Any) -> Any:
        """The first rank's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def once(self, make: Callable[[], T]) -> T:
        """What `make` returns at the first rank, everywhere; so is what it raises."""
        if self.size == 1:
            return make()
        made: tuple[T | None, Exception | None] = (None, None)
        if self.first:
            try:
                made = (make(), None)
            except Exception as error:  # raised again below, by everybody
                made = (None, error)
        value, failure = self.share(made)
        if failure is not None:
            raise failure
        found: T = value
        return found

    def total(self, values: Tensor) -> Tensor:
        """Sums over all ranks, everywhere; `values` is overwritten."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace gradients by their sums over all ranks, everywhere."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        sums = self.total(torch.cat([g.reshape(-1) for g in gradients]))
        parts = torch.split(sums, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, asked: bool) -> bool:
        """True everywhere if it is true for one."""
        return asked if self.size == 1 else bool(self.total(torch.tensor([float(asked)])).item())


def local_device(name: str) -> str:
    """The device of this process: with several on a machine, `cuda` and `auto` mean one GPU each.

    Args:
        name: as the user gave it; one with a number is left as it is.
    """
    own = os.environ.get("LOCAL_RANK")
    if own is None or name not in ("auto", "cuda"):
        return name
    if name == "auto" and not torch.cuda.is_available():
        return name
    return f"cuda:{own}"
