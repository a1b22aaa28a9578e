"""Compare the operators that a graph may have, and write docs/results/operators.md.

    python ci/bench/operators.py [--model MODEL] [--contexts N,...] [--time-limit SECONDS] [--page FILE]

The standard's operators are measured against the fused ones and against a cache of fixed length (`--static-cache`) in
ONNX Runtime, and the fused ones against the graph that the onnxruntime-genai builder writes of the same weights, in
onnxruntime-genai, in float32 and in int4. Each comparison is a benchmark as `amp-export benchmark` makes it: processes
of their own that take turns.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from amp_export.benchmarking.comparison import benchmark_models
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.workloads import DECODE_TOKENS, Sweep
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.exporters.onnx import export
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.hardware.machine import Machine
from amp_export.options import Operators, Opset, Runtime, WeightFormat

PAGE = Path(__file__).parents[2] / "docs/results/operators.md"
BUILDER = "builder"
FIXED = "fixed cache"
IN_INT4 = ", int4"
"""End of the names of graphs whose weights have 4 bits; those of the others are in float32."""


def write_graphs(checkpoint: Checkpoint, folder: Path, *, room: int) -> dict[str, Path]:
    """Return the folder of each graph of a checkpoint, by name; a fixed cache has room for so many tokens."""
    for operators in Operators:
        export(checkpoint, folder / operators, operators=operators)
    export(checkpoint, folder / FIXED, opset=Opset.OPSET_24, cache_length=room)
    fused, quantized = Operators.ONNXRUNTIME, Quantization(WeightFormat.INT4)
    export(checkpoint, folder / f"{fused}{IN_INT4}", operators=fused, quantization=quantized)
    for name, precision in ((BUILDER, "fp32"), (f"{BUILDER}{IN_INT4}", "int4")):
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", precision, "-e", "cpu"]
        subprocess.run([*command, "-m", checkpoint.path, "-o", folder / name], check=True, capture_output=True)
        # a benchmark reads the sizes of the vocabulary and of the context there
        shutil.copyfile(checkpoint.path / "config.json", folder / name / "config.json")
    return {entry.name: entry for entry in sorted(folder.iterdir(), key=lambda entry: entry.name.endswith(IN_INT4))}


def count_operators(graph: Path) -> int:
    """Return the number of operators of a graph."""
    return len(onnx.load(graph / "model.onnx", load_external_data=False).graph.node)


def compare(graphs: Mapping[str, Path], contexts: list[int], time_limit: float) -> Iterator[list[str]]:
    """Yield the rows of the table: one for each pair of graphs and context."""
    pairs = (
        (Runtime.ONNXRUNTIME, Operators.STANDARD.value, Operators.ONNXRUNTIME.value),
        (Runtime.ONNXRUNTIME, Operators.STANDARD.value, FIXED),
        (Runtime.GENAI, BUILDER, Operators.ONNXRUNTIME.value),
        (Runtime.GENAI, f"{BUILDER}{IN_INT4}", f"{Operators.ONNXRUNTIME}{IN_INT4}"),
    )
    for runtime, first, second in pairs:
        for context in contexts:
            print(f"{runtime}: {first} and {second} after {context} tokens", flush=True)
            report = benchmark_models(
                graphs[first],
                graphs[second],
                setup=Setup(runtime),
                sweep=Sweep(prompt_lengths=(context,)),
                sampling=Sampling(time_limit=time_limit),
            )
            row = [str(runtime), first, second, f"{context:,}", *_phases(report)]
            print(*row, flush=True)
            yield row


def _phases(report: BenchmarkReport) -> Iterator[str]:
    for result in report.phases.values():
        low, high = result.interval
        medians = f"{result.dense.median * 1e3:.1f} to {result.pruned.median * 1e3:.1f}"
        yield f"{medians}: x {result.speedup:.2f} [{low:.2f}, {high:.2f}]"


def write_page(model: str, graphs: Mapping[str, Path], rows: list[list[str]], *, contexts: str, room: int) -> str:
    """Return the page."""
    counts = [f"| {name} | {count_operators(folder)} |" for name, folder in graphs.items()]
    lines = [
        "# Operators",
        "",
        f"The graph of `{model}`, in float32 unless said: with the standard's operators, also with a cache of fixed",
        f"length (`--static-cache {room}`), with fused ones of ONNX Runtime (`--operators onnxruntime`), and as",
        "onnxruntime-genai's builder writes it. Given are the milliseconds of the first graph and of the second, and",
        "how many times as fast the second is, with its 95 % interval. Prefill is a prompt with the logits of its last",
        f"token, decode is a token after it, of {DECODE_TOKENS}.",
        "",
        "| graph | operators |",
        "| --- | ---: |",
        *counts,
        "",
        "| runtime | first | second | prompt | prefill, ms | decode, ms |",
        "| --- | --- | --- | ---: | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"Measured on {Machine.here()}, by `python ci/bench/operators.py --contexts {contexts}`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--contexts", default="32,512,2048")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds of each comparison")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    contexts = [int(each) for each in asked.contexts.split(",")]
    room = max(contexts) + DECODE_TOKENS
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = open_checkpoint(resolve_model(asked.model, on_status=print).path)
        graphs = write_graphs(checkpoint, Path(scratch), room=room)
        rows = list(compare(graphs, contexts, asked.time_limit))
        asked.page.write_text(
            write_page(asked.model, graphs, rows, contexts=asked.contexts, room=room), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
