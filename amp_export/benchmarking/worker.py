"""The worker process of a benchmark: `python -m amp_export.benchmarking.worker FOLDER SETUP`.

It loads one model, writes a `Ready` as a line of JSON, and then answers each `Round`, a line of JSON on standard input,
with a line of times. It ends when standard input ends, and uses no CPU time while it waits.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from amp_export.benchmarking.runners import import_runtime, load
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.timing import Clock, EventClock, Round, WallClock, time_round
from amp_export.documents import convert, decode_json
from amp_export.errors import AmpExportError
from amp_export.hardware.threads import pin_threads

if TYPE_CHECKING:
    from amp_export.benchmarking.runners.base import Runner


@dataclass(frozen=True)
class Ready:
    """Facts about a loaded model.

    Attributes:
        load_seconds: Load time, without the imports of this package.
        threads: Threads that compute one operator; 0 on a GPU.
        pinned: The CPU cores that they are pinned to; empty if the system does not support it.
        runtime: Name and version of the runtime.
        clock: Name of the clock.
    """

    load_seconds: float
    threads: int
    pinned: tuple[int, ...]
    runtime: str
    clock: str


def _load(folder: Path, setup: Setup) -> tuple[Runner, Clock, Ready]:
    # before the runtime creates its threads, which inherit the affinity
    pinned = pin_threads(setup.threads) if not setup.on_gpu else ()
    import_runtime(setup)
    started = time.perf_counter()
    runner = load(folder, setup)
    seconds = time.perf_counter() - started
    clock = choose_clock(runner, setup)
    return runner, clock, Ready(seconds, runner.threads, pinned, runner.description, clock.name)


def choose_clock(runner: Runner, setup: Setup) -> Clock:
    """Return a clock of CUDA events if the runtime's stream is known, otherwise the wall clock."""
    from amp_export.benchmarking.runners.exported import ExportedDecoder

    if isinstance(runner, ExportedDecoder) and (stream := runner.stream) is not None:
        return EventClock(stream)
    if setup.on_gpu and setup.format is None:
        import torch

        return EventClock(torch.cuda.current_stream())
    return WallClock()


def _take_stdout() -> TextIO:
    """Reserve standard output for answers, and redirect everything else that is printed to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


def _read_setup(text: str) -> Setup:
    return convert(decode_json(text), Setup, source="setup")


def main() -> None:
    """Serve rounds until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("setup", type=_read_setup)
    asked = parser.parse_args()
    answers = _take_stdout()
    try:
        runner, clock, ready = _load(asked.folder, asked.setup)
    except AmpExportError as error:
        _answer(answers, {"error": type(error).__name__, "message": str(error)})
        return
    _answer(answers, vars(ready))
    gc.disable()  # a collection during a call would be timed
    for line in sys.stdin:
        _answer(answers, vars(time_round(runner, convert(decode_json(line), Round, source="task"), clock)))


if __name__ == "__main__":
    main()
