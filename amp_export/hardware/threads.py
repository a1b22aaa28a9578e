"""How many threads a runtime gets on this machine."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Return the cores that this process may run on, two hardware threads of one core counted once.

    They share the core's arithmetic units, so a second busy thread gains nothing. Where the system does not tell, all
    that it counts are taken.
    """
    return len(_one_of_each_core()) or os.cpu_count() or 1


def pin_threads(threads: int | None) -> tuple[int, ...]:
    """Keep this process, and all threads that it makes from now on, to as many cores, one hardware thread of each.

    Args:
        threads: How many threads compute; by default one for each core.

    Returns:
        The processors. None where the system has no such setting, or fewer cores than threads.
    """
    processors = _one_of_each_core()
    threads = threads if threads is not None else len(processors)
    if not processors or threads > len(processors):
        return ()
    chosen = processors[:threads]
    os.sched_setaffinity(0, chosen)
    return chosen


def _one_of_each_core() -> tuple[int, ...]:
    """Return one processor of every core that this process may run on; none where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores: dict[str, int] = {}
    for processor in sorted(os.sched_getaffinity(0)):
        siblings = Path(_TOPOLOGY.format(processor))
        cores.setdefault(siblings.read_text(encoding="ascii") if siblings.is_file() else str(processor), processor)
    return tuple(cores.values())
