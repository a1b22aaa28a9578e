"""Writes docs/results/demo-cpu.md, and summary.svg beside it: python ci/bench/results.py. Forty minutes on two cores.

Everything is run through the command line, as a user would run it, and every figure comes from the reports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
REPEATED = 1
"""Which of them the other runtimes and workloads measure again."""

RUNTIMES = ("onnxruntime", "onnxruntime-genai", "openvino", "pytorch", "pytorch-compiled")
WORKLOADS = "--batch 1,4 --context 32,128"
BENCHES = ("scoring.py", "export.py")

HEADER = """# The demo model on a CPU

SmolLM2-135M-Instruct (`--model demo`), float32, ONNX Runtime. Written by `python ci/bench/results.py`, which runs
`amp-export --to onnx --model demo --ratio R OPTIONS` for each line. *dense* and *pruned* are perplexities on text held
back from calibration, *KL* is the divergence of the pruned model from the dense one in nats a token. Gains are ratios
of medians with their bootstrap 95 % intervals; one that holds 1 is no gain. *realised* is the share of the gain that
the removed bytes allow a decoding step.

| ratio | options | removed | heads/groups/neurons | dense | pruned | KL | prefill | decode | realised | size | parity |
| ---: | --- | ---: | --- | ---: | ---: | ---: | --- | --- | ---: | ---: | --- |
"""

RUNTIMES_HEADER = """
## Other runtimes

Ratio {ratio}, `{options}`, and `amp-export benchmark OUT --runtime RUNTIME` for each line. Dense and pruned take turns
within a line; lines are measured one after the other, so times of two lines compare only roughly.

| runtime | prefill, dense and pruned | gain | a token, dense and pruned | gain | realised | most memory, pruned |
| --- | ---: | --- | ---: | --- | ---: | ---: |
"""

WORKLOADS_HEADER = """
## Other workloads

The same in ONNX Runtime, with {options}.

| batch | prompt | prefill, dense and pruned | gain | a step, dense and pruned | gain | realised |
| ---: | ---: | ---: | --- | ---: | --- | ---: |
"""


def amp_export(*arguments: str | Path) -> dict[str, Any]:
    """Runs a command and returns its report."""
    command = [sys.executable, "-m", "amp_export", *map(str, arguments), "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def convert(ratio: str, options: str, output: Path, scores: Path | None) -> dict[str, Any]:
    """Runs the whole way and returns its report."""
    asked = ["--to", "onnx", "--model", "demo", "--ratio", ratio, *options.split(), "--output", output]
    return amp_export(*asked, *([] if scores is None else ["--scores", scores]))


def measure_runtimes(output: Path) -> Iterator[str]:
    """One line for each runtime."""
    converting = ["export", "--to", "openvino", "--model", output / "pruned", "--output", output]
    subprocess.run([sys.executable, "-m", "amp_export", *converting], check=True)
    for runtime in RUNTIMES:
        benchmark = amp_export("benchmark", output, "--runtime", runtime)["benchmarks"][runtime]
        memory = f"{benchmark['pruned']['peak_memory_bytes'] / 1e6:,.0f} MB"
        yield _row([f"{runtime}: {benchmark['runtime']}", *_workload(benchmark), memory])


def measure_workloads(output: Path) -> Iterator[str]:
    """One line for each batch and prompt."""
    leading = amp_export("benchmark", output, *WORKLOADS.split())["benchmarks"]["onnxruntime"]
    for workload in (leading, *leading["sweep"]):
        yield _row([str(workload["batch_size"]), str(workload["prompt_tokens"]), *_workload(workload)])


def table_row(ratio: str, options: str, report: dict[str, Any]) -> str:
    """One line of the first table."""
    pruning, quality, benchmark = report["pruning"], report["quality"], report["benchmarks"]["onnxruntime"]
    return _row(
        [
            ratio,
            f"`{options}`",
            f"{pruning['achieved']:.2%}",
            ", ".join(_range(pruning["widths"], unit) for unit in ("query_heads", "key_value_heads", "neurons")),
            f"{quality['dense']:.1f}",
            f"{quality['pruned']:.1f}",
            f"{quality['kl']:.3f}",
            *(_gain(benchmark["phases"][phase]) for phase in ("prefill", "decode")),
            f"{benchmark['roofline']['realised_gain']:.0%}",
            f"{benchmark['pruned']['bytes_on_disk'] / benchmark['dense']['bytes_on_disk'] - 1:+.1%}",
            "holds" if report["parity"]["holds"] else "**fails**",
        ]
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _workload(measured: dict[str, Any]) -> list[str]:
    cells = []
    for phase in (measured["phases"]["prefill"], measured["phases"]["decode"]):
        times = " and ".join(f"{phase[subject]['median'] * 1e3:.1f}" for subject in ("dense", "pruned"))
        cells += [f"{times} ms", _gain(phase)]
    return [*cells, f"{measured['roofline']['realised_gain']:.0%}"]


def _range(layers: list[dict[str, int]], unit: str) -> str:
    counts = [layer[unit] for layer in layers]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _gain(phase: dict[str, Any]) -> str:
    low, high = phase["interval"]
    return f"{phase['speedup']:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Runs everything, then writes."""
    rows, machine = [], {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for number, (ratio, options) in enumerate(RUNS):
            scores = scratch / "0" / "scores.safetensors" if number else None
            report = convert(ratio, options, scratch / str(number), scores)
            machine = report["benchmarks"]["onnxruntime"]["machine"]
            rows.append(table_row(ratio, options, report))
        picture = [PROJECT / "ci/bench/picture.py", scratch / "0", RESULTS / "summary.svg"]
        subprocess.run([sys.executable, *picture], check=True)
        ratio, options = RUNS[REPEATED]
        rows += [RUNTIMES_HEADER.format(ratio=ratio, options=options), *measure_runtimes(scratch / str(REPEATED))]
        rows += [WORKLOADS_HEADER.format(options=f"`{WORKLOADS}`"), *measure_workloads(scratch / str(REPEATED))]
    benches = []
    for bench in BENCHES:
        command = [sys.executable, str(PROJECT / "ci" / "bench" / bench)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        benches.append(f"## `python ci/bench/{bench}`\n\n```\n{printed}```\n")
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    text = HEADER + "".join(rows) + f"\nMachine: {facts}.\n\n" + "\n".join(benches)
    (RESULTS / "demo-cpu.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
