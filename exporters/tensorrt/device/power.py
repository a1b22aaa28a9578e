"""Power of the device, sampled during the measurement: from hwmon's power monitors, or from tegrastats."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterable

INTERVAL_SECONDS = 0.05
"""Interval between samples of hwmon; that of tegrastats is twice this, the shortest that it keeps steadily."""

TOTAL = "VDD_IN"
"""The rail that powers the whole module on NX and Nano (NVIDIA in "Interpretation of Jetson NX power rail",
forums.developer.nvidia.com/t/200883). If it is missing, as on AGX modules, all rails are added, as in jetson_stats 4.3
(jtop/core/power.py); the report names them."""

FEWEST_SAMPLES = 3
"""Minimum number of samples for a mean."""

_TEGRASTATS = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)mW/\d+mW")


def read_hwmon(root: Path = Path("/")) -> dict[str, float]:
    """Return watts by rail of all ina3221 chips: volts times amperes (Documentation/hwmon/ina3221.rst, Linux 6.1)."""
    watts = {}
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _read(monitor / "name") != "ina3221":
            continue
        for label_file in sorted(monitor.glob("in[123]_label")):
            channel = label_file.name[2]
            label = _read(label_file)
            millivolts, milliamperes = _read(monitor / f"in{channel}_input"), _read(monitor / f"curr{channel}_input")
            # NC: not connected
            if label and label != "NC" and millivolts and milliamperes:
                watts[label] = int(millivolts) * int(milliamperes) / 1e6
    return watts


def parse_tegrastats(line: str) -> dict[str, float]:
    """Return the watts by rail in a line of tegrastats, which lists current power before the average."""
    return {name: int(milliwatts) / 1e3 for name, milliwatts in _TEGRASTATS.findall(line)}


def total_watts(watts_by_rail: dict[str, float]) -> float:
    """Return the power of the whole module in watts."""
    return watts_by_rail.get(TOTAL, sum(watts_by_rail.values()))


class Power:
    """Samples the power until it is closed.

    Attributes:
        source: Source of the samples.
        rails: Rails that are added up.
    """

    def __init__(self, source: str, first: dict[str, float], process: Any, root: Path) -> None:
        self.source = source
        self.rails = [TOTAL] if TOTAL in first else sorted(first)
        self._process = process
        self._root = root
        self._samples: list[tuple[float, float]] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, root: Path = Path("/")) -> Power | None:
        """Start sampling; return None if the device does not measure its power."""
        first = read_hwmon(root)
        if first:
            return cls("ina3221, hwmon", first, None, root)
        tegrastats = shutil.which("tegrastats")
        if tegrastats is None:
            return None
        interval = str(int(INTERVAL_SECONDS * 2000))
        process = subprocess.Popen(
            [tegrastats, "--interval", interval],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
        assert process.stdout is not None
        first = parse_tegrastats(process.stdout.readline())
        if first:
            return cls("tegrastats", first, process, root)
        process.kill()
        process.communicate()
        return None

    def close(self) -> None:
        """Stop sampling."""
        self._closed.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join()
        if self._process is not None:
            self._process.communicate()

    def mean_watts(self, spans: Iterable[tuple[float, float]]) -> float | None:
        """Return the mean of all samples within the spans; None if there are too few.

        Args:
            spans: Start and end times, from `time.monotonic`.
        """
        spans = list(spans)
        inside = [watts for when, watts in list(self._samples) if any(began <= when <= ended for began, ended in spans)]
        return sum(inside) / len(inside) if len(inside) >= FEWEST_SAMPLES else None

    def _sample(self) -> None:
        while not self._closed.is_set():
            if self._process is None:
                time.sleep(INTERVAL_SECONDS)
                watts = read_hwmon(self._root)
            else:
                line = self._process.stdout.readline()
                if not line:
                    return
                watts = parse_tegrastats(line)
            if watts:
                self._samples.append((time.monotonic(), total_watts(watts)))


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
