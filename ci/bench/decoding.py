"""Compare graphs, exporters and runtimes in turn, and write docs/results/decoding.md.

    python ci/bench/decoding.py --work DIR --text FILE [--model MODEL] [--only FORMAT ...] [--page FILE]

In each launch all contenders load the same model, each in a process of its own, pinned to the same cores, and then run
the same prompts in turn; the order changes from round to round. Graphs and times are kept in DIR, so that a format can
be measured by itself, and the page is written from all. Takes half an hour on two cores, which must do nothing else.
mobius takes part where it is installed: `pip install mobius-onnx`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "ci"))

from bench.processes import fill_in, is_installed  # noqa: E402
from bench.weights import measure_quality, read_windows  # noqa: E402

from amp_export.benchmarking.processes import Worker, start_worker  # noqa: E402
from amp_export.benchmarking.roofline import step_bytes  # noqa: E402
from amp_export.benchmarking.setup import FORMATS, Setup  # noqa: E402
from amp_export.benchmarking.statistics import PhaseResult  # noqa: E402
from amp_export.benchmarking.timing import Round  # noqa: E402
from amp_export.benchmarking.workloads import DECODE_TOKENS, Workload  # noqa: E402
from amp_export.checkpoints.reading import open_checkpoint  # noqa: E402
from amp_export.checkpoints.sources import resolve_model  # noqa: E402
from amp_export.exporters import gguf  # noqa: E402
from amp_export.exporters.dispatch import exported_bytes  # noqa: E402
from amp_export.exporters.onnx import run as run_graph  # noqa: E402
from amp_export.exporters.onnx.third_party import open_third_party  # noqa: E402
from amp_export.hardware.machine import Machine, read_bandwidth  # noqa: E402
from amp_export.options import Dtype, Phase, Runtime  # noqa: E402

PAGE = PROJECT / "docs/results/decoding.md"
CONTEXTS = (32, 512, 2048)
ROOM = max(CONTEXTS) + DECODE_TOKENS
"""Tokens that a cache of fixed length has room for."""

LAUNCHES = 6
PHASES = (Phase.PREFILL, Phase.DECODE)

OURS = "amp_export export --model MODEL --output OUT --to"
FUSED = f"{OURS} onnx --operators onnxruntime"
GPTQ = f"{FUSED} --weights int4 --rounding gptq"
BUILDER = "onnxruntime_genai.models.builder -m MODEL -o OUT -e cpu -p"
MOBIUS = "mobius build --config MODEL --dtype f32 --ep cpu --runtime ort-genai OUT"


@dataclass(frozen=True)
class Contender:
    """A model in a form that a runtime reads.

    Attributes:
        name: What it is.
        runtime: The runtime.
        command: Module and options that write it, with MODEL and OUT to fill in; empty if the runtime
            reads the checkpoint.
    """

    name: str
    runtime: Runtime
    command: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether amp-export wrote it."""
        return self.command.startswith("amp_export ")

    @property
    def is_here(self) -> bool:
        """Whether the package that writes it is installed."""
        return not self.command or is_installed(self.command.split()[0])

    def write(self, checkpoint: Path, work: Path) -> Path:
        """Return the folder that its runtime loads, which is written unless it exists."""
        if not self.command:
            return checkpoint
        output = work / re.sub("[^a-z0-9.]+", "-", self.command.lower())
        if not output.exists():
            words = fill_in(self.command.split(), checkpoint, output)
            subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
            if not self.is_ours:
                # a benchmark reads the sizes of the vocabulary and of the context there
                shutil.copyfile(checkpoint / "config.json", output / "config.json")
        return output / str(FORMATS[self.runtime]) if self.is_ours else output


ORT, GENAI, LLAMA_CPP = Runtime.ONNXRUNTIME, Runtime.GENAI, Runtime.LLAMA_CPP

CONTENDERS: Mapping[str, tuple[Contender, ...]] = {
    "float32": (
        Contender("fused operators", ORT, FUSED),
        Contender("standard operators", ORT, f"{OURS} onnx"),
        Contender(f"cache of {ROOM:,} tokens", ORT, f"{OURS} onnx --static-cache {ROOM}"),
        Contender("fused operators", GENAI, FUSED),
        Contender("onnxruntime-genai's builder", GENAI, f"{BUILDER} fp32"),
        Contender("mobius", GENAI, MOBIUS),
        Contender("GGUF, F32", LLAMA_CPP, f"{OURS} gguf"),
        Contender("checkpoint", Runtime.PYTORCH),
    ),
    "int4": (
        Contender("GPTQ, 4 bits", ORT, GPTQ),
        Contender("GPTQ, 4.3 bits", ORT, f"{GPTQ} --average-bits 4.3"),
        Contender("GPTQ, 4 bits", GENAI, GPTQ),
        Contender("onnxruntime-genai's builder", GENAI, f"{BUILDER} int4"),
        Contender("GGUF, Q4_0", LLAMA_CPP, f"{OURS} gguf --weights q4_0"),
    ),
}
"""The contenders by format of the weights; the others are compared with the first of each."""


def measure(folders: Sequence[tuple[Contender, Path]], vocab_size: int) -> dict[str, Any]:
    """Return the seconds of all rounds, by length of the prompt, contender and phase, and the memory's bandwidth."""
    tasks = {tokens: Round(Workload(1, tokens, DECODE_TOKENS), vocab_size, 0) for tokens in CONTEXTS}
    times: dict[int, list[dict[str, list[list[float]]]]] = {tokens: [{} for _ in folders] for tokens in tasks}
    bandwidths = []
    for launch in range(LAUNCHES):
        print(f"launch {launch + 1} of {LAUNCHES}", flush=True)
        with contextlib.ExitStack() as running:
            workers: dict[int, Worker] = {}
            for number in _turn(len(folders), launch):
                contender, folder = folders[number]
                workers[number] = running.enter_context(start_worker(folder, Setup(contender.runtime)))
                workers[number].time(tasks[min(tasks)])
            for tokens, task in tasks.items():
                for count in range(_rounds(tokens)):
                    for number in _turn(len(folders), launch + count):
                        for phase, seconds in workers[number].time(task).phases.items():
                            times[tokens][number].setdefault(phase, []).append(list(seconds))
            threads = workers[0].ready.threads
        bandwidths.append(read_bandwidth(threads))
    return {"times": times, "bandwidth": statistics.median(bandwidths), "machine": str(Machine.here())}


def _rounds(tokens: int) -> int:
    """Return the rounds of a launch: fewer for longer prompts."""
    return max(1, min(4, 1024 // tokens))


def _turn(count: int, start: int) -> list[int]:
    """Return the order of a round, in which another contender comes first each time."""
    return [(start + number) % count for number in range(count)]


def table(
    found: Mapping[str, Any], folders: Sequence[tuple[Contender, Path]], tokens: int, *, in_float32: bool
) -> Iterator[str]:
    """Yield the lines of a table; what a step reads is known of float32 weights, which all read alike."""
    times = found["times"][str(tokens)]
    ours = times[0]
    heads = ["model", "runtime", "prefill, ms", "against the first", "decode, ms", "against the first"]
    read = _bytes_read(folders[0][1], tokens) if in_float32 else 0
    yield f"| {' | '.join([*heads, *(['of the bandwidth'] if in_float32 else [])])} |"
    yield f"| --- | --- | ---: | --- | ---: | --- |{' ---: |' if in_float32 else ''}"
    for (contender, _), theirs in zip(folders, times, strict=True):
        cells = [contender.name, str(contender.runtime)]
        results = {phase: PhaseResult.of(theirs[phase], ours[phase], launches=LAUNCHES) for phase in PHASES}
        for result in results.values():
            low, high = result.interval
            cells.append(f"{result.dense.median * 1e3:.1f}")
            cells.append("" if theirs is ours else f"x {result.speedup:.2f} [{low:.2f}, {high:.2f}]")
        if in_float32:
            cells.append(f"{read / results[Phase.DECODE].dense.median / found['bandwidth']:.0%}")
        yield f"| {' | '.join(cells)} |"


def _bytes_read(graph: Path, tokens: int) -> int:
    """Return the bytes of weights and KV cache that a decode step of a graph in float32 reads after a prompt."""
    workload = Workload(1, tokens, DECODE_TOKENS)
    (read,) = step_bytes(graph, [workload], dtype=Dtype.FLOAT32, graph=graph / "model.onnx")
    assert read is not None, "it is the graph of a decoder"
    return read.total


def describe_weights(
    folders: Sequence[tuple[Contender, Path]], dense: Path, checkpoint: Path, windows_ws: Any
) -> Iterator[str]:
    """Yield the lines of the table of what rounding loses, measured in the runtime that ships."""
    yield "| model | MB | perplexity | KL |"
    yield "| --- | ---: | ---: | ---: |"
    exact = run_graph(dense)
    for contender, folder in folders:
        if contender.runtime is GENAI and contender.is_ours:
            continue
        rounded: Any
        if contender.runtime is LLAMA_CPP:
            rounded = gguf.run(folder)
        elif contender.is_ours:
            rounded = run_graph(folder)
        else:
            rounded = open_third_party(folder, open_checkpoint(checkpoint))
        perplexity, divergence = measure_quality(rounded, exact, windows_ws)
        rounded.close()
        yield f"| {contender.name} | {exported_bytes(folder) / 1e6:.0f} | {perplexity:.1f} | {divergence:.3f} |"


def count_operators(folders: Sequence[tuple[Contender, Path]]) -> Iterator[str]:
    """Yield the lines of the table of operators."""
    yield "| graph | operators |"
    yield "| --- | ---: |"
    counted = set()
    for contender, folder in folders:
        graph = folder / "model.onnx"
        if graph.exists() and graph not in counted:
            counted.add(graph)
            yield f"| {contender.name} | {len(onnx.load(graph, load_external_data=False).graph.node)} |"


def write_page(model: str, sections: Sequence[str], machine: str) -> str:
    """Return the page."""
    commands = [each.command for group in CONTENDERS.values() for each in group]
    return "\n".join(
        [
            "# Decoding beside others",
            "",
            f"The dense `{model}` in the forms that amp-export and others write, and in several runtimes, on the same",
            "cores. *Prefill* is the time of a prompt, with the logits of its last token where a runtime can ask for",
            f"them alone, and *decode* that of a token after it, of {DECODE_TOKENS}. *Against the first* is how many",
            f"times as long a row takes as the first one, with the 95 % interval over {LAUNCHES} launches. *Of the",
            "bandwidth* is the share of the memory's bandwidth, measured between launches, at which a token's weights",
            "and cache are read.",
            "",
            *sections,
            "## Commands",
            "",
            *(f"- `python -m {command}`" for command in dict.fromkeys(filter(None, commands))),
            "",
            f"Measured on {machine}, by `python ci/bench/decoding.py`.",
            "",
        ]
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for graphs and times")
    parser.add_argument("--text", type=Path, required=True, help="text to measure what rounding loses (.txt)")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS), help="formats to measure")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    checkpoint = resolve_model(asked.model, on_status=print).path
    vocab_size = open_checkpoint(checkpoint).config.sizes["vocab_size"]
    asked.work.mkdir(parents=True, exist_ok=True)
    sections, machines = [], []
    for weights, group in CONTENDERS.items():
        folders = [(each, each.write(checkpoint, asked.work)) for each in group if each.is_here]
        kept = asked.work / f"{weights}.json"
        if not kept.exists() and weights in asked.only:
            kept.write_text(json.dumps(measure(folders, vocab_size)), encoding="utf-8")
        sections += [f"## {weights}", ""]
        if kept.exists():
            found = json.loads(kept.read_text(encoding="utf-8"))
            machines.append(found["machine"])
            for tokens in CONTEXTS:
                lines = list(table(found, folders, tokens, in_float32=weights == "float32"))
                print(*lines, sep="\n", flush=True)
                sections += [f"A prompt of {tokens:,} tokens:", "", *lines, ""]
        sections += [*count_operators(folders), ""]
        if weights != "float32":
            dense = CONTENDERS["float32"][0].write(checkpoint, asked.work)
            windows_ws = read_windows(asked.text, checkpoint)
            sections += [*describe_weights(folders, dense, checkpoint, windows_ws), ""]
    asked.page.write_text(write_page(asked.model, sections, "; ".join(dict.fromkeys(machines))), encoding="utf-8")


if __name__ == "__main__":
    main()
