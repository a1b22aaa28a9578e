from __future__ import annotations

import subprocess
import sys

import pytest

from amp_export.hardware.machine import Machine, read_bandwidth
from tests.support import PROJECT


def test_machine_is_described() -> None:
    machine = Machine.here()
    assert machine.cores >= 1
    assert machine.processor
    assert machine.system


def test_peak_memory_counts_what_was_held_and_does_not_fall_after() -> None:
    program = """
from amp_export.hardware.machine import peak_memory_bytes
before = peak_memory_bytes()
held = bytearray(100 << 20)
during = peak_memory_bytes()
del held
print(before, during, peak_memory_bytes())
"""
    root = PROJECT
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    before, during, after = map(int, output.split())
    assert during - before == pytest.approx(100 << 20, rel=0.05)
    assert after == pytest.approx(during, rel=0.01)


def test_bandwidth_is_of_a_plausible_size() -> None:
    assert 1e8 < read_bandwidth(1, buffer_bytes=16 << 20) < 1e13
