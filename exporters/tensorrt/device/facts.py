"""Facts about the device, and its state before and after the measurement; unknown values are None."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from .files import total_memory

COMMAND_SECONDS = 10
"""Timeout of commands that report facts."""


def device_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Return the facts that do not change during the measurement."""
    return {
        "model": device_model(root),
        "gpu": run_quietly(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]),
        "processor": _processor(root),
        "memory_bytes": total_memory(root),
        "l4t": read_text(root / "etc/nv_tegra_release"),
        "jetpack": run_quietly(["dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"]),
        "kernel": platform.release(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "power_mode": run_quietly(["nvpmodel", "-q"]),
        # it needs root; without root, clock_rates still report the current clocks
        "jetson_clocks": run_quietly(["jetson_clocks", "--show"]),
    }


def device_state(root: Path = Path("/")) -> dict[str, Any]:
    """Return the state that changes: temperatures in degrees Celsius, clocks in hertz."""
    return {"temperatures": temperatures(root), "clock_rates": clock_rates(root)}


def device_model(root: Path = Path("/")) -> str | None:
    """Return the manufacturer's name of the device."""
    tree = read_text(root / "proc/device-tree/model")
    return tree or read_text(root / "sys/class/dmi/id/product_name")


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Return the temperatures by thermal zone, without zones that are switched off."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, value = read_text(zone / "type"), read_text(zone / "temp")
        if name and value:
            found[name] = int(value) / 1000
    return found


def clock_rates(root: Path = Path("/")) -> dict[str, int]:
    """Return the clocks of CPU cores, and of all devices in devfreq, such as GPU and memory."""
    found = {}
    for core in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*")):
        kilohertz = read_text(core / "cpufreq/scaling_cur_freq")
        if kilohertz:
            found[core.name] = int(kilohertz) * 1000
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        hertz = read_text(device / "cur_freq")
        if hertz:
            found[device.name] = int(hertz)
    return found


def read_text(file: Path) -> str | None:
    """Return the text of a small file; None if it is missing or empty."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def run_quietly(command: list[str]) -> str | None:
    """Return the output of a command; None if it is missing, fails, times out or prints nothing."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = done.stdout.decode("utf-8", errors="replace").strip()
    return said if done.returncode == 0 and said else None


def _processor(root: Path) -> str | None:
    text = read_text(root / "proc/cpuinfo") or ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or None
