"""Number of runtime threads on this machine, and their pinning to cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

MOST_READERS = 4
"""Threads that read files at once: more would hold more of them in memory, and a disk is no faster for it."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Return the number of physical cores that this process may use.

    Hardware threads of one core share its arithmetic units, so a second busy thread gains nothing. If the system does
    not report the affinity, all its CPUs are counted.
    """
    return len(_one_of_each_core()) or os.cpu_count() or 1


def pin_threads(threads: int | None) -> tuple[int, ...]:
    """Pin this process and all threads that it will start to cores, one hardware thread per core.

    Args:
        threads: Number of compute threads, and thus of cores; by default one per core.

    Returns:
        The CPU numbers; empty if the system does not support pinning or has fewer cores than threads.
    """
    processors = _one_of_each_core()
    threads = threads if threads is not None else len(processors)
    if not processors or threads > len(processors):
        return ()
    chosen = processors[:threads]
    os.sched_setaffinity(0, chosen)
    return chosen


def read_in_threads(read: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield what a function returns for each item, in their order; it must spend its time where other threads may run.

    Of the results, no more than one for each thread and one besides are in memory at once. After an error, and if no
    further result is asked for, items that were not begun are left.

    Args:
        read: The function, which reads a file.
        items: What to call it with.
    """
    threads = min(usable_cores(), MOST_READERS)
    pool = ThreadPoolExecutor(threads)
    ahead: deque[Future[_Result]] = deque()
    try:
        for item in items:
            if len(ahead) > threads:
                yield ahead.popleft().result()
            ahead.append(pool.submit(read, item))
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _one_of_each_core() -> tuple[int, ...]:
    """Return one CPU number per core that this process may use; empty if the system does not report the affinity."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores: dict[str, int] = {}
    for processor in sorted(os.sched_getaffinity(0)):
        siblings = Path(_TOPOLOGY.format(processor))
        cores.setdefault(siblings.read_text(encoding="ascii") if siblings.is_file() else str(processor), processor)
    return tuple(cores.values())
