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
RUNS = (("0.1", "auto"), ("0.2", "auto"), ("0.2", "within"), ("0.2", "groups"), ("0.3", "auto"))
BENCHES = ("scoring.py", "export.py")

HEADER = """# The demo model on a CPU

SmolLM2-135M-Instruct (`--model demo`), float32, ONNX Runtime. Written by `python ci/bench/results.py`, which runs
`amp-export --to onnx --model demo --ratio R --heads H` for each line. Perplexity is on text held back from calibration.
Gains are ratios of medians with their bootstrap 95 % intervals; one that holds 1 is no gain.

| ratio | heads | removed | heads, groups, neurons | perplexity | pruned | prefill gain | decode gain | size | parity |
| ---: | --- | ---: | --- | ---: | ---: | --- | --- | ---: | --- |
"""


def convert(ratio: str, heads: str, output: Path, scores: Path | None) -> dict[str, Any]:
    """Runs the whole way and returns its report."""
    command = [sys.executable, "-m", "amp_export", "--to", "onnx", "--model", "demo", "--ratio", ratio]
    command += ["--heads", heads, "--output", str(output), "--json"]
    command += [] if scores is None else ["--scores", str(scores)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def table_row(ratio: str, heads: str, report: dict[str, Any]) -> str:
    """One line of the table."""
    pruning, quality, benchmark = report["pruning"], report["quality"], report["benchmark"]
    widths = pruning["widths"][0]
    cells = [
        ratio,
        heads,
        f"{pruning['achieved']:.2%}",
        f"{widths['query_heads']}, {widths['key_value_heads']}, {widths['neurons']}",
        f"{quality['dense']:.1f}",
        f"{quality['pruned']:.1f}",
        *(_gain(benchmark["phases"][phase]) for phase in ("prefill", "decode")),
        f"{benchmark['pruned']['bytes_on_disk'] / benchmark['dense']['bytes_on_disk'] - 1:+.1%}",
        "holds" if report["parity"]["holds"] else "**fails**",
    ]
    return f"| {' | '.join(cells)} |\n"


def _gain(phase: dict[str, Any]) -> str:
    low, high = phase["interval"]
    return f"{phase['speedup']:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Runs everything, then writes."""
    rows, machine = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "0"
        for number, (ratio, heads) in enumerate(RUNS):
            scores = first / "scores.safetensors" if number else None
            report = convert(ratio, heads, Path(scratch) / str(number), scores)
            machine = report["benchmark"]["machine"]
            rows.append(table_row(ratio, heads, report))
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
