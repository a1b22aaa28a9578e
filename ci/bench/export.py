"""Compare exporters: whole processes in turn, their time and peak memory, and write docs/results/export.md.

    python ci/bench/export.py [--model MODEL] [--rounds N] [--page FILE]

The exit code is 1 if ours takes more than 0.6 times as long as onnxruntime-genai's builder, or not less memory. mobius
takes part where it is installed: `pip install mobius-onnx`. A round takes three minutes on two cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from amp_export.hardware.machine import Machine

MAX_RATIO = 0.6
PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs/results/export.md"

RESOLVE = "import sys; from amp_export.checkpoints.sources import resolve_model; print(resolve_model(sys.argv[1]).path)"
TRANSFORMERS = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.exporters.auto import AutoHfExporter
from transformers.exporters.configs import OnnxConfig
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
inputs = AutoTokenizer.from_pretrained(sys.argv[1])("Two graphs, for prompts and tokens.", return_tensors="pt")
config = OnnxConfig(dynamic=True)
AutoHfExporter.from_config(config).export_for_generation(model, dict(inputs), config).save_pretrained(sys.argv[2])
"""
OURS, BUILDER = "amp-export", "onnxruntime-genai's builder"
COMMANDS: Mapping[str, tuple[str, ...]] = {
    OURS: ("-m", "amp_export", "export", "--to", "onnx", "--model", "MODEL", "--output", "OUT"),
    BUILDER: ("-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu", "-m", "MODEL", "-o", "OUT"),
    "mobius": ("-m", "mobius", "build", "--config", "MODEL", "--dtype", "f32", "--runtime", "ort-genai", "OUT"),
    "amp-export, traced": (
        *("-m", "amp_export", "export", "--to", "onnx", "--via", "trace"),
        *("--model", "MODEL", "--output", "OUT"),
    ),
    "transformers.exporters": ("-c", TRANSFORMERS, "MODEL", "OUT"),
}
"""What Python is given, by exporter, with MODEL and OUT to fill in."""


@dataclass(frozen=True)
class Measurement:
    """Measurement of one process from start to end.

    Attributes:
        seconds: Wall time.
        peak_bytes: Peak resident memory of the process, or of a process that it waited for.
        written_bytes: Size of what it wrote.
    """

    seconds: float
    peak_bytes: int
    written_bytes: int


def measure(words: Sequence[str], checkpoint: Path, output: Path) -> Measurement:
    """Run an exporter, measure its process and remove what it wrote.

    Raises:
        SystemExit: It failed; its output is in the message.
    """
    places = {"MODEL": str(checkpoint), "OUT": str(output)}
    command = [sys.executable, *(places.get(word, word) for word in words)]
    with tempfile.TemporaryFile("w+") as printed:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, cwd=PROJECT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            printed.seek(0)
            raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{printed.read()}")
    written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    shutil.rmtree(output)
    # ru_maxrss counts kilobytes on Linux and bytes on macOS: getrusage(2)
    return Measurement(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), written)


def is_installed(words: Sequence[str]) -> bool:
    """Return whether the package of an exporter is installed."""
    return words[0] == "-c" or importlib.util.find_spec(words[1].partition(".")[0]) is not None


def measure_rounds(checkpoint: Path, rounds: int) -> dict[str, list[Measurement]]:
    """Run all exporters in turn, after the checkpoint was read into the file cache."""
    for file in checkpoint.glob("*.safetensors"):
        file.read_bytes()
    found: dict[str, list[Measurement]] = {name: [] for name, words in COMMANDS.items() if is_installed(words)}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(rounds):
            for name, measurements in found.items():
                measurements.append(measure(COMMANDS[name], checkpoint, Path(scratch) / "output"))
                print(f"{name}: {measurements[-1].seconds:.1f} s", flush=True)
    return found


def rows(found: Mapping[str, Sequence[Measurement]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| exporter | seconds | ours takes | peak MB | ours takes | written, MB |"
    yield "| --- | ---: | --- | ---: | ---: | ---: |"
    ours = found[OURS]
    for name, theirs in found.items():
        seconds, peak, written = (
            statistics.median(getattr(each, kind) for each in theirs)
            for kind in ("seconds", "peak_bytes", "written_bytes")
        )
        cells = [name, f"{seconds:.1f}", "", f"{peak / 1e6:.0f}", "", f"{written / 1e6:.0f}"]
        if name != OURS:
            ratios = sorted(mine.seconds / other.seconds for mine, other in zip(ours, theirs, strict=True))
            cells[2] = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
            cells[4] = f"{statistics.median(each.peak_bytes for each in ours) / peak:.2f}"
        yield f"| {' | '.join(cells)} |"


def write_page(model: str, found: Mapping[str, Sequence[Measurement]], rounds: int) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Exporters",
            "",
            f"`{model}` as ONNX in float32: whole processes from their start to their end, in turn, {rounds} rounds;",
            "medians. *Ours takes* is how many times as much time (from least to most of a round) and memory the first",
            "row takes. The exporter of transformers writes two graphs, one for prompts and one for tokens.",
            "",
            *rows(found),
            "",
            f"Measured on {Machine.here()}, by `python ci/bench/export.py`, where the commands stand.",
            "",
        ]
    )


def main() -> int:
    """Measure, write the page, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a checkpoint directory, or what --model takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    # in a separate process: the peak memory of a child includes that of its parent at the start
    command = [sys.executable, "-c", RESOLVE, asked.model]
    resolved = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    found = measure_rounds(Path(resolved.stdout.splitlines()[-1]), asked.rounds)
    asked.page.write_text(write_page(asked.model, found, asked.rounds), encoding="utf-8")
    print(*rows(found), sep="\n")
    ours, builder = found[OURS], found[BUILDER]
    ratio = statistics.median(mine.seconds / theirs.seconds for mine, theirs in zip(ours, builder, strict=True))
    peaks = [statistics.median(each.peak_bytes for each in taken) for taken in (ours, builder)]
    return 0 if ratio <= MAX_RATIO and peaks[0] < peaks[1] else 1


if __name__ == "__main__":
    sys.exit(main())
