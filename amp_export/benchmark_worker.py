"""The process that holds one graph during a benchmark: `python -m amp_export.benchmark_worker FOLDER [THREADS]`.

It loads the graph, writes a line of JSON that says so, and then answers each line of JSON on its standard input, a
`Round`, with one line of times. It ends when its input ends. While it waits it takes no processor time.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from amp_export.errors import AmpExportError
from amp_export.exporters.onnx import run
from amp_export.machine import peak_memory_bytes

if TYPE_CHECKING:
    from amp_export.exporters.onnx import OnnxDecoder


@dataclass(frozen=True)
class Round:
    """What is to be run: a prompt in one piece, then single tokens, all drawn at random from a seed."""

    prompt_tokens: int
    decode_tokens: int
    vocab_size: int
    seed: int


@dataclass(frozen=True)
class RoundTimes:
    """What one round took.

    Attributes:
        prefill: Seconds for the prompt.
        decode: Seconds for each token after it.
        peak_memory_bytes: The most memory that the process has held so far.
    """

    prefill: float
    decode: tuple[float, ...]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Ready:
    """What is known of a graph once it is loaded.

    Attributes:
        load_seconds: How long loading took, the imports not counted.
        threads: How many threads compute one operator.
        runtime: Name and version of the runtime.
    """

    load_seconds: float
    threads: int
    runtime: str


def time_round(decoder: OnnxDecoder, task: Round) -> RoundTimes:
    """Runs one prompt twice, and times the second prefill and every decoded token.

    The first prefill after the other process has run finds the caches cold: 216 ms where the next took 180.
    """
    import numpy as np

    total = task.prompt_tokens + task.decode_tokens
    # the tokens are drawn, not chosen from logits: choosing would be timed, and both graphs must see the same
    tokens_bs = np.random.default_rng(task.seed).integers(task.vocab_size, size=(1, total))
    mask_bs, positions_bs = np.ones_like(tokens_bs), np.arange(total)[np.newaxis]

    ends = range(task.prompt_tokens, total + 1)
    calls = [
        (tokens_bs[:, start:end], mask_bs[:, :end], positions_bs[:, start:end])
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    decoder.forward(*calls[0])
    seconds, past = [], None
    for inputs in calls:
        started = time.perf_counter()
        _, past = decoder.forward(*inputs, past)
        seconds.append(time.perf_counter() - started)
    return RoundTimes(seconds[0], tuple(seconds[1:]), peak_memory_bytes())


def _load(folder: Path, threads: int | None) -> tuple[OnnxDecoder, Ready]:
    import onnxruntime

    started = time.perf_counter()
    decoder = run(folder, threads=threads)
    seconds = time.perf_counter() - started
    return decoder, Ready(seconds, decoder.threads, f"ONNX Runtime {onnxruntime.__version__}")


def _take_stdout() -> TextIO:
    """Keeps standard output for answers; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


def main() -> None:
    """Serves rounds until standard input ends."""
    folder, *threads = sys.argv[1:]
    answers = _take_stdout()
    try:
        decoder, ready = _load(Path(folder), int(threads[0]) if threads else None)
    except AmpExportError as error:
        _answer(answers, {"error": type(error).__name__, "message": str(error)})
        return
    _answer(answers, vars(ready))
    gc.disable()  # a collection in the middle of a token would count as its time
    for line in sys.stdin:
        _answer(answers, vars(time_round(decoder, Round(**json.loads(line)))))


if __name__ == "__main__":
    main()
