"""Write docs/results/demo-cpu.md and summary.svg: python ci/bench/results.py. Takes forty minutes on two cores.

Everything runs through the command line, as a user would run it, and every number comes from the reports.
"""

from __future__ import annotations

import argparse
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
    ("0.1", ""),
    ("0.2", ""),
    ("0.3", ""),
    ("0.1", "--one-width"),
    ("0.2", "--one-width"),
    ("0.3", "--one-width"),
    ("0.2", "--criterion amp --allocation paper --no-compensate"),
)
REPEATED = 4
"""Index of the run that is measured again with other runtimes and workloads."""

RUNTIMES = ("onnxruntime", "onnxruntime-genai", "openvino", "pytorch", "pytorch-compiled")
WORKLOADS = "--batch 1,4 --context 32,128"
BENCHES = ("scoring.py",)

HEADER = """# The demo model on a CPU

SmolLM2-135M-Instruct (`--model demo`), float32, ONNX Runtime, no training after pruning. Written by
`python ci/bench/results.py`, which runs `amp-export --to onnx --model demo --ratio R OPTIONS` for each row.

- *removed*: share of all parameters. *heads/groups/neurons*: query heads, KV groups and neurons (channels of
  `intermediate_size`) that each layer keeps.
- *dense*, *pruned*: perplexity on text that was held out from calibration. *KL*: mean KL divergence of the pruned model
  from the dense one, in nats per token.
- *prefill* (time to first token, TTFT) and *decode* (time per output token, TPOT): speedup, dense over pruned median of
  each launch, averaged over launches, with its 95 % interval. If the interval contains 1, no speedup can be claimed.
- *realised*: measured decode speedup over the speedup that the removed bytes allow.

A model of 135M parameters has little to spare: read the perplexities before the speedups.

| ratio | options | removed | heads/groups/neurons | dense | pruned | KL | prefill | decode | realised | size | parity |
| ---: | --- | ---: | --- | ---: | ---: | ---: | --- | --- | ---: | ---: | --- |
"""

RUNTIMES_HEADER = """
## Other runtimes

Ratio {ratio}, `{options}`, and `amp-export benchmark OUT --runtime RUNTIME` for each row. Dense and pruned model are
interleaved within a row; rows are measured one after the other, so times of different rows compare only roughly.

| runtime | TTFT, dense and pruned | speedup | TPOT, dense and pruned | speedup | realised | peak memory, pruned |
| --- | ---: | --- | ---: | --- | ---: | ---: |
"""

WORKLOADS_HEADER = """
## Other workloads

The same in ONNX Runtime, with {options}. TPOT is the time of one decode step for the whole batch.

| batch | prompt | TTFT, dense and pruned | speedup | TPOT, dense and pruned | speedup | realised |
| ---: | ---: | ---: | --- | ---: | --- | ---: |
"""


def amp_export(*arguments: str | Path) -> dict[str, Any]:
    """Run a command and return its report."""
    command = [sys.executable, "-m", "amp_export", *map(str, arguments), "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = json.loads(finished.stdout)
    return report


def convert(ratio: str, options: str, output: Path, scores: Path | None) -> dict[str, Any]:
    """Run the pipeline end to end and return its report."""
    given = [] if scores is None else ["--scores", str(scores)]
    asked = ["--to", "onnx", "--model", "demo", "--ratio", ratio, *options.split(), *given]
    return amp_export(*asked, "--output", output)


def measure_runtimes(output: Path) -> Iterator[str]:
    """Yield one row per runtime."""
    converting = ["export", "--to", "openvino", "--model", str(output / "pruned"), "--output", str(output)]
    subprocess.run([sys.executable, "-m", "amp_export", *converting], check=True)
    for runtime in RUNTIMES:
        benchmark = amp_export("benchmark", output, "--runtime", runtime)["benchmarks"][runtime]
        memory = f"{benchmark['pruned']['peak_memory_bytes'] / 1e6:,.0f} MB"
        yield _row([f"{runtime}: {benchmark['runtime']}", *_workload(benchmark), memory])


def measure_workloads(output: Path) -> Iterator[str]:
    """Yield one row per batch and prompt."""
    primary = amp_export("benchmark", output, *WORKLOADS.split())["benchmarks"]["onnxruntime"]
    for workload in (primary, *primary["sweep"]):
        yield _row([str(workload["batch_size"]), str(workload["prompt_tokens"]), *_workload(workload)])


def table_row(ratio: str, options: str, report: dict[str, Any]) -> str:
    """Return one row of the first table."""
    pruning, quality, benchmark = report["pruning"], report["quality"], report["benchmarks"]["onnxruntime"]
    return _row(
        [
            ratio,
            f"`{options}`" if options else "the defaults",
            f"{pruning['achieved']:.2%}",
            ", ".join(_range(pruning["widths"], unit) for unit in ("query_heads", "key_value_heads", "neurons")),
            f"{quality['dense']:.1f}",
            f"{quality['pruned']:.1f}",
            f"{quality['kl']:.3f}",
            *(_speedup(benchmark["phases"][phase]) for phase in ("prefill", "decode")),
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
        cells += [f"{times} ms", _speedup(phase)]
    return [*cells, f"{measured['roofline']['realised_gain']:.0%}"]


def _range(layers: list[dict[str, int]], unit: str) -> str:
    counts = [layer[unit] for layer in layers]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _speedup(phase: dict[str, Any]) -> str:
    low, high = phase["interval"]
    return f"{phase['speedup']:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Run everything, then write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows, machine = [], {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for number, (ratio, options) in enumerate(RUNS):
            own = not number or "--criterion" in options
            scores = None if own else scratch / "0" / "scores.safetensors"
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
