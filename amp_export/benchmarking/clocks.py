"""How calls are timed: by the wall clock, or on a GPU by events of its stream."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Clock(ABC):
    """Times calls.

    Attributes:
        name: What a report calls it.
    """

    name: str

    @abstractmethod
    def seconds(self, call: Callable[[], object]) -> float:
        """How long a call takes, until its results are there."""


class WallClock(Clock):
    """The monotonic clock, for calls that return when their results are there."""

    name = "wall clock"

    def seconds(self, call: Callable[[], object]) -> float:
        """See `Clock`."""
        started = time.perf_counter()
        call()
        return time.perf_counter() - started


class EventClock(Clock):
    """Events that a GPU stamps when it reaches them in its stream: what the processor does alone does not count.

    Source: `torch.cuda.Event`, torch 2.13; a resolution of about half a microsecond, cudaEventElapsedTime.
    """

    name = "CUDA events"

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """Takes the stream that calls run on."""
        self._stream = stream

    def seconds(self, call: Callable[[], object]) -> float:
        """See `Clock`."""
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # what was queued before must not count, nor the time that the stream waits for the first kernel of this call
        self._stream.synchronize()
        start.record(self._stream)
        call()
        end.record(self._stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
