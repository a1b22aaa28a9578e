"""Compare exporters: whole processes in turn, their time and peak memory, and write docs/results/export.md.

    python ci/bench/export.py [--model MODEL] [--rounds N] [--others NAME ...] [--page FILE]

The exit code is 1 if ours takes more than 0.6 times as long as onnxruntime-genai's builder, or not less memory. mobius
takes part where it is installed: `pip install mobius-onnx`. A round takes three minutes on two cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "ci"))

from bench.processes import Taken, fill_in, is_installed, run_measured  # noqa: E402

from amp_export.checkpoints.hashing import directory_size  # noqa: E402
from amp_export.hardware.machine import Machine  # noqa: E402

MAX_RATIO = 0.6
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

FIRST = (OURS, BUILDER)


def measure(words: Sequence[str], checkpoint: Path, output: Path) -> tuple[Taken, int]:
    """Return what an exporter took, and the bytes that it wrote, which are removed."""
    taken = run_measured([sys.executable, *fill_in(words, checkpoint, output)])
    written = directory_size(output)
    shutil.rmtree(output)
    return taken, written


def is_here(words: Sequence[str]) -> bool:
    """Return whether what Python is given runs here: a script, or a module that is installed."""
    return words[0] == "-c" or is_installed(words[1])


def measure_rounds(checkpoint: Path, names: Sequence[str], rounds: int) -> dict[str, list[tuple[Taken, int]]]:
    """Run exporters in turn, after the checkpoint was read into the file cache."""
    # by another process: the peak memory of a child includes that of its parent
    subprocess.run(["/bin/cat", *checkpoint.glob("*.safetensors")], check=True, stdout=subprocess.DEVNULL)
    found: dict[str, list[tuple[Taken, int]]] = {name: [] for name in names if is_here(COMMANDS[name])}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(rounds):
            for name, measurements in found.items():
                measurements.append(measure(COMMANDS[name], checkpoint, Path(scratch) / "output"))
                print(f"{name}: {measurements[-1][0].seconds:.1f} s", flush=True)
    return found


def rows(found: Mapping[str, Sequence[tuple[Taken, int]]]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| exporter | seconds | ours takes | memory, MB | ours takes | of its own, MB | ours takes | written, MB |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    ours = found[OURS]
    for name, theirs in found.items():
        cells = [name, f"{statistics.median(taken.seconds for taken, _ in theirs):.1f}"]
        ratios = sorted(mine.seconds / other.seconds for (mine, _), (other, _) in zip(ours, theirs, strict=True))
        cells.append(f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})" if name != OURS else "")
        for kind in ("resident_bytes", "own_bytes"):
            mine, peak = (median_of(each, kind) for each in (ours, theirs))
            cells += [f"{peak / 1e6:.0f}", f"{mine / peak:.2f}" if name != OURS else ""]
        cells.append(f"{theirs[0][1] / 1e6:.0f}")
        yield f"| {' | '.join(cells)} |"


def median_of(measurements: Sequence[tuple[Taken, int]], kind: str) -> float:
    """Return the median of an attribute of `Taken`."""
    return float(statistics.median(getattr(taken, kind) for taken, _ in measurements))


def write_page(model: str, found: Mapping[str, Sequence[tuple[Taken, int]]], rounds: int) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Exporters",
            "",
            f"`{model}` as ONNX in float32: whole processes from their start to their end, in turn, {rounds} rounds;",
            "medians. *Memory* is the most that a process had, mapped files included, which the system takes back when",
            "it needs room; *of its own* is the most without these, its children included. *Ours takes* is how many",
            "times as much time (from least to most of a round) and memory the first row takes. The exporter of",
            "transformers writes two graphs, one for prompts and one for tokens.",
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
    others = [name for name in COMMANDS if name not in FIRST]
    parser.add_argument("--others", nargs="*", choices=others, default=others, help="exporters beside the first two")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    # in a separate process: the peak memory of a child includes that of its parent at the start
    command = [sys.executable, "-c", RESOLVE, asked.model]
    resolved = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    found = measure_rounds(Path(resolved.stdout.splitlines()[-1]), [*FIRST, *asked.others], asked.rounds)
    asked.page.write_text(write_page(asked.model, found, asked.rounds), encoding="utf-8")
    print(*rows(found), sep="\n")
    ours, builder = found[OURS], found[BUILDER]
    ratios = {kind: median_of(ours, kind) / median_of(builder, kind) for kind in ("seconds", "resident_bytes")}
    return 0 if ratios["seconds"] <= MAX_RATIO and ratios["resident_bytes"] < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
