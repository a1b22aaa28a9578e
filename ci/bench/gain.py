"""Measure how much of what the removed bytes allow becomes time, and write docs/results/gain.md.

    python ci/bench/gain.py --work DIR [--model MODEL] [--ratios R,...] [--time-limit SECONDS] [--page FILE]

Dense and pruned graphs have ONNX Runtime's operators and weights of the same format. What the weights are does not
matter to their time, so models are pruned the fastest way. Takes ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from amp_export.api.export import export
from amp_export.benchmarking.comparison import benchmark_models
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.checkpoints.sources import resolve_model
from amp_export.hardware.machine import Machine
from amp_export.options import Operators, Phase, WeightFormat
from amp_export.verb_options import ExportOptions

PAGE = Path(__file__).parents[2] / "docs/results/gain.md"
FAST = ("--criterion", "amp", "--allocation", "balanced", "--no-compensate", "--snap", "32")
FORMATS = (None, WeightFormat.INT4)


def make(source: Path, output: Path, weights: WeightFormat | None) -> Path:
    """Return the folder of a checkpoint's graph, which is made unless it exists."""
    folder = output / f"{weights or 'float32'}"
    if not folder.exists():
        export(source, folder, ExportOptions(operators=Operators.ONNXRUNTIME, weights=weights))
    return folder / "onnx"


def prune(model: str, ratio: str, output: Path) -> Path:
    """Return the folder of a model pruned by a ratio, which is made unless it exists."""
    if not output.exists():
        command = [sys.executable, "-m", "amp_export", "prune", "--model", model, "--ratio", ratio, *FAST]
        subprocess.run([*command, "--output", output], check=True)
    return output / "pruned"


def measure(model: str, ratios: list[str], work: Path, time_limit: float) -> Iterator[list[str]]:
    """Yield the rows of the table: one for each format and ratio."""
    dense = resolve_model(model, on_status=print).path
    pruned = {ratio: prune(model, ratio, work / f"pruned-{ratio}") for ratio in ratios}
    for weights in FORMATS:
        for ratio in ratios:
            graphs = (make(dense, work / "dense", weights), make(pruned[ratio], work / f"graphs-{ratio}", weights))
            report = benchmark_models(*graphs, sampling=Sampling(time_limit=time_limit))
            row = [str(weights or "float32"), f"{float(ratio):.0%}", *_cells(report)]
            print(*row, flush=True)
            yield row


def _cells(report: BenchmarkReport) -> Iterator[str]:
    decode, roofline = report.phases[Phase.DECODE], report.roofline
    assert roofline is not None
    read = [each.weight_bytes_per_token for each in (report.dense, report.pruned)]
    yield " to ".join(f"{(each or 0) / 1e6:.0f}" for each in read)
    yield f"{decode.dense.median * 1e3:.1f} to {decode.pruned.median * 1e3:.1f}"
    yield _speedup(decode)
    yield f"x {roofline.allowed_gain:.2f}"
    low, high = roofline.interval
    yield f"{roofline.realised_gain:.0%} [{low:.0%}, {high:.0%}]"
    yield _speedup(report.phases[Phase.PREFILL])


def _speedup(result: PhaseResult) -> str:
    low, high = result.interval
    return f"x {result.speedup:.2f} [{low:.2f}, {high:.2f}]"


def write_page(model: str, rows: list[list[str]]) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Realised gain",
            "",
            f"`{model}`, dense and pruned, as graphs with ONNX Runtime's operators and weights of the same format.",
            f"Pruned by `{' '.join(FAST)}`:",
            "what the weights are does not matter to their time. A token after a prompt of 128 reads all weights; if",
            "reading were all that takes time, decoding would be as many times as fast as there are fewer bytes, KV",
            "cache included: that is the speedup that is allowed. Given with 95 % intervals; processes take turns.",
            "",
            "| weights | removed | MB a token | decode, ms | speedup | allowed | realised | prefill |",
            "| --- | ---: | --- | --- | --- | --- | --- | --- |",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Measured on {Machine.here()}, by `python ci/bench/gain.py`.",
            "",
        ]
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and graphs")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--ratios", default="0.2,0.3,0.4")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds of each comparison")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    rows = list(measure(asked.model, asked.ratios.split(","), asked.work, asked.time_limit))
    asked.page.write_text(write_page(asked.model, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
