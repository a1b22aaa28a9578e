"""Compare pruning with quantizing for the same bytes, and write docs/results/weights.md.

    python ci/bench/weights.py --text FILE --work DIR [--model MODEL] [--time-limit SECONDS] [--page FILE]

Every graph has ONNX Runtime's operators and runs as it is shipped. Pruned checkpoints are made by `amp-export prune`
with its defaults, and kept in DIR for the next run. Takes half an hour on two cores, and 12 minutes more to prune.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from amp_export.api.export import export
from amp_export.benchmarking.comparison import benchmark_models
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.checkpoints.loading import load_tokenizer
from amp_export.checkpoints.sources import resolve_model
from amp_export.cli.console import ConsoleProgress
from amp_export.exporters.dispatch import exported_bytes
from amp_export.exporters.onnx import run
from amp_export.hardware.machine import Machine
from amp_export.inputs.tokens import Floats
from amp_export.options import Operators, Phase, RoundingMethod, WeightFormat
from amp_export.verb_options import ExportOptions

PAGE = Path(__file__).parents[2] / "docs/results/weights.md"
WINDOWS, WINDOW = 12, 512


@dataclass(frozen=True)
class Variant:
    """A model in a format.

    Attributes:
        ratio: Share of all parameters that is removed.
        weights: Format of its weights; None for float32.
        average_bits: Largest average of their bits.
        rounding: How they are rounded.
    """

    ratio: float
    weights: WeightFormat | None = None
    average_bits: float | None = None
    rounding: RoundingMethod = RoundingMethod.NEAREST

    @property
    def folder(self) -> str:
        """Name of its output directory."""
        return f"{self.ratio:g}-{self.weights or 'float32'}-{self.average_bits or ''}-{self.rounding}"

    @property
    def bits(self) -> str:
        """Bits of its weights, for the table."""
        if self.average_bits is not None:
            return f"{self.average_bits:g}"
        return "32" if self.weights is None else str(self.weights.bits)

    @property
    def name(self) -> str:
        """What it is, for the table."""
        model = f"{self.ratio:.0%} pruned" if self.ratio else "dense"
        return model if self.rounding is RoundingMethod.NEAREST else f"{model}, GPTQ"


DENSE = Variant(0)
INT4, INT8, GPTQ = WeightFormat.INT4, WeightFormat.INT8, RoundingMethod.GPTQ
VARIANTS = (
    DENSE,
    Variant(0, INT8),
    Variant(0, INT4, 6.0, GPTQ),
    Variant(0, INT4, 5.0, GPTQ),
    Variant(0, INT4, 4.3, GPTQ),
    Variant(0, INT4, 4.3),
    Variant(0, INT4, None, GPTQ),
    Variant(0, INT4),
    Variant(0.1, INT8),
    Variant(0.1, INT4, 4.3, GPTQ),
    Variant(0.2),
    Variant(0.2, INT8),
    Variant(0.2, INT4, 4.3, GPTQ),
    Variant(0.3, INT8),
    Variant(0.3, INT4, 4.3, GPTQ),
)


@dataclass(frozen=True)
class Row:
    """What was measured of a graph.

    Attributes:
        name: What it is.
        bits: Bits of its weights.
        megabytes: Size of graph and weights.
        perplexity: Perplexity of the text.
        divergence: KL divergence from the dense model in float32, in nats a token.
        decode: Decoding against the dense model in float32; None for that itself.
    """

    name: str
    bits: str
    megabytes: float
    perplexity: float
    divergence: float
    decode: PhaseResult | None

    def cells(self) -> Iterator[str]:
        """Yield the cells of the table."""
        yield from (self.name, self.bits, f"{self.megabytes:.0f}", f"{self.perplexity:.1f}", f"{self.divergence:.3f}")
        if self.decode is None:
            yield from ("", "")
            return
        low, high = self.decode.interval
        yield f"{self.decode.pruned.median * 1e3:.1f}"
        yield f"x {self.decode.speedup:.2f} [{low:.2f}, {high:.2f}]"


def make(variant: Variant, model: str, work: Path, console: Console) -> Path:
    """Return the folder of a variant's graph, which is made unless it exists."""
    output = work / variant.folder
    source: str | Path = model
    if variant.ratio:
        pruned = work / f"pruned-{variant.ratio:g}"
        if not pruned.exists():
            command = [sys.executable, "-m", "amp_export", "prune", "--model", model, "--ratio", str(variant.ratio)]
            subprocess.run([*command, "--snap", "32", "--output", pruned], check=True)
        source = pruned / "pruned"
    if not output.exists():
        options = ExportOptions(
            operators=Operators.ONNXRUNTIME,
            weights=variant.weights,
            average_bits=variant.average_bits,
            rounding=variant.rounding,
        )
        export(source, output, options, progress=ConsoleProgress(console))
    return output / "onnx"


def read_windows(text: Path, model: Path) -> Any:
    """Return windows spread evenly over a text, int64 [windows, tokens]."""
    token_ids = load_tokenizer(model)(text.read_text(encoding="utf-8")).input_ids
    starts = np.linspace(0, len(token_ids) - WINDOW, WINDOWS).astype(int)
    return np.stack([token_ids[start : start + WINDOW] for start in starts])


def measure_quality(found: Any, dense: Any, windows_ws: Any) -> tuple[float, float]:
    """Return perplexity, and divergence from the dense graph, of a decoder."""
    lost = apart = 0.0
    for tokens_s in windows_ws:
        log_sv, dense_sv = (_log_probabilities(each, tokens_s) for each in (found, dense))
        apart += float((np.exp(dense_sv) * (dense_sv - log_sv)).sum())
        lost -= float(log_sv[np.arange(WINDOW - 1), tokens_s[1:]].sum())
    return float(np.exp(lost / WINDOWS / (WINDOW - 1))), apart / WINDOWS / WINDOW


def _log_probabilities(decoder: Any, tokens_s: Any) -> Floats:
    mask, positions = np.ones((1, WINDOW), np.int64), np.arange(WINDOW)[None]
    logits_bsv, _ = decoder.forward(tokens_s[None], mask, positions)
    logits_sv = logits_bsv[0].astype(np.float64)
    logits_sv -= logits_sv.max(axis=1, keepdims=True)
    found: Floats = logits_sv - np.log(np.exp(logits_sv).sum(axis=1, keepdims=True))
    return found


def write_page(model: str, text: Path, rows: Sequence[Row]) -> str:
    """Return the page."""
    lines = [
        "# Pruned or quantized",
        "",
        f"`{model}`, pruned by `amp-export prune --ratio R --snap 32` on the shipped text, and exported with",
        "`--operators onnxruntime --weights W --average-bits B`: 32 bits without them, GPTQ with `--rounding gptq`.",
        "Graphs run as they are shipped, with activations rounded to int8. Perplexity and KL divergence, in nats a",
        f"token, from the dense model in float32 are on {WINDOWS} windows of {WINDOW} tokens of {text.name}. Decoding",
        "is a token after a prompt of 128, and how many times as fast as the dense model in float32, in processes that",
        "take turns, with its 95 % interval.",
        "",
        "| model | bits | MB | perplexity | KL | decode, ms | against float32 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
        "",
        f"Measured on {Machine.here()}, by `python ci/bench/weights.py`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="text to measure on (.txt)")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and graphs")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--time-limit", type=float, default=40.0, help="seconds of each comparison")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    console, sampling = Console(stderr=True), Sampling(time_limit=asked.time_limit)
    model = resolve_model(asked.model, on_status=print).path
    windows_ws = read_windows(asked.text, model)
    graphs = {variant: make(variant, asked.model, asked.work, console) for variant in VARIANTS}
    dense = run(graphs[DENSE])
    rows = []
    for variant, folder in graphs.items():
        decoder = run(folder)
        perplexity, divergence = measure_quality(decoder, dense, windows_ws)
        decoder.close()
        decode = None
        if variant is not DENSE:
            decode = benchmark_models(graphs[DENSE], folder, sampling=sampling).phases[Phase.DECODE]
        rows.append(Row(variant.name, variant.bits, exported_bytes(folder) / 1e6, perplexity, divergence, decode))
        print(*rows[-1].cells(), flush=True)
    asked.page.write_text(write_page(asked.model, asked.text, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
