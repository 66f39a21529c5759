"""Batches made ahead of the step that uses them: in a thread, or in processes of their own."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import cv2
from torch.utils.data import DataLoader, Dataset

from d2s_cli.training.data import Batch

DrawBatch = Callable[[int], Batch]

#: batches that each worker process keeps ready
AHEAD = 2


class Stream(Protocol):
    """Batches in the order of their steps."""

    def __iter__(self) -> Iterator[Batch]:
        """Never ends."""

    def close(self) -> None:
        """Stop whatever makes them."""


def open_stream(draw: DrawBatch, first_step: int, workers: int = 0) -> Stream:
    """Batches from `first_step` on.

    Args:
        draw: step -> Batch; must depend on the step alone, and be picklable if there are workers.
        first_step: where to begin (a resumed run begins where it stopped).
        workers: processes; 0 draws in a thread of this one.
    """
    return WorkerStream(draw, first_step, workers) if workers else BatchStream(draw, first_step)


class BatchStream:
    """One background thread; arguments as `open_stream`, `ahead` batches kept ready."""

    def __init__(self, draw: DrawBatch, first_step: int, ahead: int = 4) -> None:
        self._draw = draw
        self._step = first_step
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                item: Batch | BaseException = self._draw(self._step)
            except Exception as error:  # handed to the consumer, who raises it
                item = error
            self._step += 1
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class _Steps(Dataset[Batch | Exception]):
    def __init__(self, draw: DrawBatch) -> None:
        self.draw = draw

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.draw(step)
        except Exception as error:  # the loader would wrap it in one of its own
            return error


class WorkerStream:
    """Worker processes, each drawing whole batches; arguments as `open_stream`."""

    def __init__(self, draw: DrawBatch, first_step: int, workers: int) -> None:
        loader = DataLoader(
            _Steps(draw),
            batch_size=None,
            sampler=itertools.count(first_step),
            num_workers=workers,
            prefetch_factor=AHEAD,
            worker_init_fn=_alone,
            # a forked child would inherit threads' locks, and a GPU that it must not touch
            multiprocessing_context="spawn",
        )
        self._batches = iter(loader)

    def __iter__(self) -> Iterator[Batch]:
        for item in self._batches:
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        # the loader ends its processes when nobody holds it
        del self._batches


def _alone(worker: int) -> None:
    """In a worker: one thread, and Ctrl-C is the training process' affair, who ends the workers."""
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that trains was killed: nobody else would."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
