"""CUDA graphs: a network call recorded once for a shape and replayed as one launch.

At batch 1 a GPU waits for launches, not for arithmetic: a call of the network is some 500 kernels
of a few microseconds. Replaying leaves one. Other devices run the function as it is.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)

#: recorded shapes kept; each holds the memory of its activations
MAX_GRAPHS = 8
#: calls before recording, in which libraries choose their algorithms
WARM_UP = 2

Function = Callable[..., Tensor]
Key = tuple[object, ...]


@dataclass
class Recording:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor


class GraphedCalls:
    """Calls a function of tensors, by CUDA graph where its inputs are on a CUDA device.

    Args:
        function: tensors to one tensor; its work must depend on shapes alone.
        limit: recordings kept, the least recently used goes first.
    """

    def __init__(self, function: Function, limit: int = MAX_GRAPHS) -> None:
        self.function = function
        self.limit = limit
        self.recordings: OrderedDict[Key, Recording] = OrderedDict()
        self.works = True

    def __call__(self, *tensors: Tensor) -> Tensor:
        """What the function gives; a tensor of its own."""
        if not self.works or not all(t.is_cuda for t in tensors) or torch.is_grad_enabled():
            return self.function(*tensors)
        # streams belong to the current device, which need not be the tensors'
        with torch.cuda.device(tensors[0].device):
            return self._replayed(*tensors)

    def _replayed(self, *tensors: Tensor) -> Tensor:
        key: Key = tuple((t.shape, t.dtype, t.stride(), t.device) for t in tensors)
        if key not in self.recordings:
            try:
                self._record(key, tensors)
            except torch.OutOfMemoryError:
                self.recordings.clear()
                raise
            except RuntimeError as error:
                log.warning("no CUDA graphs on this machine: %s", error)
                self.works = False
                self.recordings.clear()
                return self.function(*tensors)
        self.recordings.move_to_end(key)
        recording = self.recordings[key]
        for static, given in zip(recording.inputs, tensors, strict=True):
            static.copy_(given)
        recording.graph.replay()
        return recording.output.clone()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _record(self, key: Key, tensors: tuple[Tensor, ...]) -> None:
        """Inputs and output are plain tensors: those of the inference mode could not be written to
        by a later call outside of it."""
        while len(self.recordings) >= self.limit:
            self.recordings.popitem(last=False)
        inputs = [t.clone() for t in tensors]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # threads that write and read pictures may use CUDA meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self.function(*inputs)
        self.recordings[key] = Recording(graph, inputs, output)
