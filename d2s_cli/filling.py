"""Windows of many pictures through a guide with a network, in batches of one size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from d2s_cli.ahead import Outcome
from d2s_cli.batches import Batches
from d2s_cli.closing import PICTURE_ERRORS
from d2s_cli.errors import GuideError, UsageError, WeightsError
from d2s_cli.guides.contract import Guide
from d2s_cli.guides.network import NetworkGuide
from d2s_cli.guides.on_photo import Sight, fill_sights
from d2s_cli.images.pairing import Job
from d2s_cli.images.regions import Window
from d2s_cli.manifest import Entry
from d2s_cli.opening import Opener, guide_errors
from d2s_cli.picture import Picture

#: Windows of 256 x 256 that go through a guide together. On the CPU a batch of four saves a tenth
#: of the time, which is not worth the wait for the first of four results of a slow guide.
BATCH = {"cpu": 1, "cuda": 16, "mps": 4}
#: pictures, and pixels of them, held while their windows wait for a full batch
MAX_WAITING = 16
MAX_WAITING_PIXELS = 50_000_000

#: height, width and type of a picture
_Kind = tuple[int, int, str]
Reads = Generator[Outcome[Job, "Seen | list[Entry]"], None, None]
Fills = Generator[Outcome[Job, "Picture | list[Entry]"], None, None]


@dataclass(eq=False)
class Seen:
    """A picture that was read, whose windows are filled now.

    Attributes:
        picture: gets each window as it is filled.
        orders: windows, and what the guide is shown for each.
        missing: how many are not filled yet.
        error: why it cannot be restored.
    """

    picture: Picture
    orders: list[tuple[Window, Sight]]
    missing: int
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or not self.missing


@dataclass(frozen=True, eq=False)
class Order:
    """One window of a picture."""

    owner: Seen
    window: Window
    sight: Sight


def goes_in_batches(guide: Guide | None) -> bool:
    """Whether a guide is one for `Filler`: one call of its network at a time, in batches if it
    takes any."""
    return guide is not None and (guide.batches or isinstance(guide, NetworkGuide))


class Filler(Batches[Order, _Kind]):
    """Fills the windows of pictures that an opener reads.

    Args:
        opener: of the run.
        guide: for which `goes_in_batches` is true.
        batch: windows of 256 x 256 at a time; None picks by device.
    """

    def __init__(self, opener: Opener, guide: Guide, batch: int | None = None) -> None:
        super().__init__(batch or BATCH[opener.refiner.device.type])
        self.opener, self.guide = opener, guide

    def read(self, job: Job) -> Seen | list[Entry]:
        """Read a picture; or its entries, if nothing is to be done. Several threads may.

        Raises:
            InputError, MemoryError: this picture cannot be restored.
        """
        if job.guide is not None:
            opened = self.opener.open(job)
            return Seen(opened, [], 0) if isinstance(opened, Picture) else opened
        picture = self.opener.read(job)
        if not isinstance(picture, Picture):
            return picture
        windows = self.opener.windows_of(picture)
        orders = [(window, self.opener.see(self.guide, picture, window)) for window in windows]
        return Seen(picture, orders, len(orders))

    def fill(self, read: Reads, stop: Callable[[], bool]) -> Fills:
        """Pictures with every window filled, in the order in which they become ready.

        Args:
            read: what came of `read` for each job; closed with this.
            stop: asked between batches; True fills no more.
        """
        waiting: list[tuple[Job, Seen]] = []
        with contextlib.closing(read):
            for outcome in read:
                if not isinstance(seen := outcome.result, Seen):
                    yield Outcome(outcome.item, seen, outcome.error)
                    continue
                waiting.append((outcome.item, seen))
                for window, sight in seen.orders:
                    kind = (*sight.hole.shape, sight.picture.dtype.name)
                    self.add_to(kind, Order(seen, window, sight))
                seen.orders.clear()
                self.compute_full()
                yield from _done(waiting)
                pixels = sum(seen.picture.hole.size for _, seen in waiting)
                if len(waiting) >= MAX_WAITING or pixels >= MAX_WAITING_PIXELS:
                    self.compute_all(stop)
                    yield from _done(waiting)
            self.compute_all(stop)
            yield from _done(waiting)

    def _count(self, kind: _Kind) -> int:
        if not self.guide.batches:
            return 1
        side = self.guide.side
        # a guide of one size works at that size whatever it is shown
        return super()._count((side, side, kind[2]) if side else kind)

    def compute(self, orders: Sequence[Order], kind: _Kind) -> None:
        orders = [order for order in orders if order.owner.error is None]
        try:
            filled = fill_sights(self.guide, [order.sight for order in orders]) if orders else []
        except (WeightsError, UsageError, *PICTURE_ERRORS) as error:
            if len(orders) > 1:  # the others can do without the one that is at fault
                for order in orders:
                    self._compute([order], kind)
            elif isinstance(error, WeightsError | UsageError):
                self._fail(orders[0], GuideError(error.message, error.hint))
            else:
                self._fail(orders[0], error)
            return
        for order, first in zip(orders, filled, strict=True):
            try:
                self.opener.settle(order.owner.picture, order.window, first)
                order.owner.missing -= 1
            except PICTURE_ERRORS as error:
                self._fail(order, error)

    def compute_tight(self, order: Order, kind: _Kind, error: torch.OutOfMemoryError) -> None:
        try:
            with guide_errors(self.guide, order.window):
                raise error
        except GuideError as failure:
            self._fail(order, failure)

    def _fail(self, order: Order, error: Exception) -> None:
        """The picture cannot be restored; its other windows need no work."""
        order.owner.error = error
        self.keep(lambda other: other.owner is not order.owner)


def _done(waiting: list[tuple[Job, Seen]]) -> Iterator[Outcome[Job, Picture | list[Entry]]]:
    """Take the pictures out that wait for no window any more."""
    for item in [item for item in waiting if item[1].done]:
        waiting.remove(item)
        job, seen = item
        seen.picture.windows.sort(key=lambda settled: settled[0].number)
        seen.picture.sharpened.sort()
        yield Outcome(job, None if seen.error else seen.picture, seen.error)
