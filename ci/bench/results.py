"""Writes docs/results/demo-cpu.md: python ci/bench/results.py. Takes ten minutes on two cores.

Everything is run through the command line, as a user would run it, and every figure comes from the reports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "docs" / "results"
RUNS = (
    ("0.1", "--heads auto"),
    ("0.2", "--heads auto"),
    ("0.2", "--neurons-per-layer global"),
    ("0.2", "--heads within"),
    ("0.2", "--heads within --heads-per-layer global"),
    ("0.2", "--heads groups"),
    ("0.3", "--heads auto"),
)
BENCHES = ("scoring.py", "export.py")

HEADER = """# The demo model on a CPU

SmolLM2-135M-Instruct (`--model demo`), float32, ONNX Runtime. Written by `python ci/bench/results.py`, which runs
`amp-export --to onnx --model demo --ratio R OPTIONS` for each line. *dense* and *pruned* are perplexities on text held
back from calibration. Gains are ratios of medians with their bootstrap 95 % intervals; one that holds 1 is no gain.

| ratio | options | removed | heads, groups, neurons | dense | pruned | prefill gain | decode gain | size | parity |
| ---: | --- | ---: | --- | ---: | ---: | --- | --- | ---: | --- |
"""


def convert(ratio: str, options: str, output: Path, scores: Path | None) -> dict[str, Any]:
    """Runs the whole way and returns its report."""
    command = [sys.executable, "-m", "amp_export", "--to", "onnx", "--model", "demo", "--ratio", ratio]
    command += [*options.split(), "--output", str(output), "--json"]
    command += [] if scores is None else ["--scores", str(scores)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def table_row(ratio: str, options: str, report: dict[str, Any]) -> str:
    """One line of the table."""
    pruning, quality, benchmark = report["pruning"], report["quality"], report["benchmarks"]["onnxruntime"]
    cells = [
        ratio,
        f"`{options}`",
        f"{pruning['achieved']:.2%}",
        ", ".join(_range(pruning["widths"], unit) for unit in ("query_heads", "key_value_heads", "neurons")),
        f"{quality['dense']:.1f}",
        f"{quality['pruned']:.1f}",
        *(_gain(benchmark["phases"][phase]) for phase in ("prefill", "decode")),
        f"{benchmark['pruned']['bytes_on_disk'] / benchmark['dense']['bytes_on_disk'] - 1:+.1%}",
        "holds" if report["parity"]["holds"] else "**fails**",
    ]
    return f"| {' | '.join(cells)} |\n"


def _range(layers: list[dict[str, int]], unit: str) -> str:
    counts = [layer[unit] for layer in layers]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _gain(phase: dict[str, Any]) -> str:
    low, high = phase["interval"]
    return f"{phase['speedup']:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Runs everything, then writes."""
    rows, machine = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "0"
        for number, (ratio, options) in enumerate(RUNS):
            scores = first / "scores.safetensors" if number else None
            report = convert(ratio, options, Path(scratch) / str(number), scores)
            machine = report["benchmarks"]["onnxruntime"]["machine"]
            rows.append(table_row(ratio, options, report))
    benches = []
    for bench in BENCHES:
        command = [sys.executable, str(PROJECT / "ci" / "bench" / bench)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        benches.append(f"## `python ci/bench/{bench}`\n\n```\n{printed}```\n")
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = HEADER + "".join(rows) + f"\nMachine: {facts}.\n\n" + "\n".join(benches)
    (RESULTS / "demo-cpu.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
