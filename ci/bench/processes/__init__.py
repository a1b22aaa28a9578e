"""Commands whose time and memory are measured."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PAUSE = 0.02


@dataclass(frozen=True)
class Taken:
    """What a command took from its start to its end.

    Attributes:
        seconds: Wall time.
        resident_bytes: Most memory of its process or of one that it waited for, mapped files included.
        own_bytes: Most memory of it and its children together that the system cannot take back: without mapped files;
            0 where the system does not say.
    """

    seconds: float
    resident_bytes: int
    own_bytes: int


def is_installed(module: str) -> bool:
    """Return whether the package of a module is installed."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def fill_in(words: Sequence[str], model: Path, output: Path) -> list[str]:
    """Return the words of a command with the places of MODEL and OUT in them."""
    places = {"MODEL": str(model), "OUT": str(output)}
    return [places.get(word, word) for word in words]


def run_measured(command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> Taken:
    """Run a command, and watch its memory.

    Raises:
        SystemExit: It failed; its output is in the message.
    """
    began, own = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=environment)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            own = max(own, sum(map(_own_bytes, _family(process.pid))))
            time.sleep(_PAUSE)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            printed.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{printed.read()}")
    # ru_maxrss counts kilobytes on Linux and bytes on macOS: getrusage(2)
    return Taken(seconds, ended[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024), own)


def _family(parent: int) -> Iterator[int]:
    """Yield a process and its descendants."""
    yield parent
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _own_bytes(process: int) -> int:
    """Return the anonymous memory of a process: RssAnon of proc(5)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)
