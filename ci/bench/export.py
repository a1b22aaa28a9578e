"""Compare our export with onnxruntime-genai's model builder: whole processes, interleaved, time and peak memory.

The exit code is 1 if ours takes more than 0.6 times as long, or not less memory.

    python ci/bench/export.py [--checkpoint DIR] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_RATIO = 0.6
REPOSITORY = Path(__file__).parents[2]

RESOLVE = "import sys; from amp_export.checkpoints.sources import resolve_model; print(resolve_model(sys.argv[1]).path)"


@dataclass(frozen=True)
class Measurement:
    """Measurement of one process from start to end.

    Attributes:
        seconds: Wall time.
        peak_bytes: Peak resident memory of the process, or of a process that it waited for.
    """

    seconds: float
    peak_bytes: int


def measure(command: Sequence[str]) -> Measurement:
    """Run a command and measure its process.

    Raises:
        SystemExit: The command failed; its output is in the message.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{output.read()}")
    # ru_maxrss counts kilobytes on Linux and bytes on macOS: getrusage(2)
    return Measurement(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def commands(checkpoint: Path, output: Path) -> dict[str, list[str]]:
    """Return the two commands to compare, in the order in which they run."""
    genai = "onnxruntime_genai.models.builder"
    return {
        "builder": [sys.executable, "-m", genai, "-p", "fp32", "-e", "cpu", "-m", str(checkpoint), "-o", str(output)],
        "amp-export": [
            *(sys.executable, "-m", "amp_export", "export"),
            *("--model", str(checkpoint), "--to", "onnx", "--output", str(output)),
        ],
    }


def measure_rounds(checkpoint: Path, rounds: int) -> dict[str, list[Measurement]]:
    """Run both commands alternately, after one round that warms the file cache."""
    measurements: dict[str, list[Measurement]] = {name: [] for name in commands(checkpoint, Path())}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds + 1):
            output = Path(scratch) / "output"
            for name, command in commands(checkpoint, output).items():
                measurement = measure(command)
                shutil.rmtree(output)
                if number:
                    measurements[name].append(measurement)
    return measurements


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="demo", help="a checkpoint directory, or what --model takes")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # in a separate process: the peak memory of a child includes that of its parent at the start
    found = subprocess.run(
        [sys.executable, "-c", RESOLVE, arguments.checkpoint],
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    measurements = measure_rounds(Path(found.stdout.splitlines()[-1]), arguments.rounds)

    print(f"{'':12}{'seconds':>10}{'peak MB':>10}   medians of {arguments.rounds} rounds")
    peaks = {}
    for name, taken in measurements.items():
        seconds = statistics.median(measurement.seconds for measurement in taken)
        peaks[name] = statistics.median(measurement.peak_bytes for measurement in taken)
        print(f"{name:12}{seconds:10.2f}{peaks[name] / 1e6:10.0f}")
    ratios = [
        ours.seconds / theirs.seconds
        for ours, theirs in zip(measurements["amp-export"], measurements["builder"], strict=True)
    ]
    ratio = statistics.median(ratios)
    print(f"time ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), at most {MAX_RATIO}")
    print(f"memory ratio {peaks['amp-export'] / peaks['builder']:.2f}, less than 1")
    return 0 if ratio <= MAX_RATIO and peaks["amp-export"] < peaks["builder"] else 1


if __name__ == "__main__":
    sys.exit(main())
