"""How many threads a runtime gets on this machine."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """The cores that this process may run on, two hardware threads of one core counted once.

    They share the core's arithmetic units, so a second busy thread gains nothing. Where the system does not tell, all
    that it counts are taken.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for processor in os.sched_getaffinity(0):
        siblings = Path(_TOPOLOGY.format(processor))
        cores.add(siblings.read_text(encoding="ascii") if siblings.is_file() else str(processor))
    return len(cores)
