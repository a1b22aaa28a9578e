"""The process that holds one graph during a benchmark: `python -m amp_export.benchmark_worker FOLDER`.

It loads the graph or engine, writes a line of JSON that says so, and then answers each line of JSON on its standard
input, a `Round`, with one line of times. It ends when its input ends. While it waits it takes no processor time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from amp_export.errors import AmpExportError
from amp_export.exporters import Provider, run
from amp_export.machine import peak_memory_bytes

if TYPE_CHECKING:
    from amp_export.exporters.onnx import OnnxDecoder, OnnxEncoderDecoder, OnnxModel
    from amp_export.exporters.tensorrt.running import TensorrtDecoder


PREFILL, DECODE = "prefill", "decode"
"""A decoder's phases, and the second of an encoder's with a decoder."""

FORWARD = "forward"
"""An encoder's only phase: one text, or one image."""

ENCODE = "encode"
"""All that an encoder with a decoder does once for what it reads: the encoder, and the decoder's first call, which
computes the keys and values of the encoder's states."""

FORWARD_CALLS = 4
"""How often an encoder is timed in a round."""


@dataclass(frozen=True)
class Round:
    """What is to be run: one text, image or sound that is read in one piece, then single tokens, all drawn at random.

    Attributes:
        prompt_tokens: Tokens of the text.
        decode_tokens: Single tokens after it.
        vocab_size: How many tokens there are to draw from.
        seed: The same seed draws the same.
    """

    prompt_tokens: int
    decode_tokens: int
    vocab_size: int
    seed: int


@dataclass(frozen=True)
class RoundTimes:
    """What one round took.

    Attributes:
        phases: Seconds of each call, by phase.
        peak_memory_bytes: The most memory that the process has held so far.
    """

    phases: Mapping[str, Sequence[float]]
    peak_memory_bytes: int

    @property
    def total(self) -> float:
        """Seconds of all calls."""
        return sum(map(sum, self.phases.values()))


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


def time_round(model: OnnxModel | TensorrtDecoder, task: Round) -> RoundTimes:
    """Runs what is read twice, and times the second run of it and every decoded token.

    The first run after the other process has run finds the caches cold: 216 ms where the next took 180.
    """
    from amp_export.exporters.onnx import OnnxDecoder, OnnxEncoder
    from amp_export.exporters.tensorrt.running import TensorrtDecoder

    if isinstance(model, OnnxDecoder | TensorrtDecoder):
        phases = _time_decoder(model, task)
    elif isinstance(model, OnnxEncoder):
        inputs = _draw_inputs(model.inputs, task)
        model.forward(inputs)
        phases = {FORWARD: [_seconds(lambda: model.forward(inputs)) for _ in range(FORWARD_CALLS)]}
    else:
        phases = _time_writing(model, task)
    return RoundTimes(phases, peak_memory_bytes())


def _time_decoder(decoder: OnnxDecoder | TensorrtDecoder, task: Round) -> dict[str, list[float]]:
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
    seconds: list[float] = []
    past: Any = None
    for inputs in calls:
        started = time.perf_counter()
        _, past = decoder.forward(*inputs, past)
        seconds.append(time.perf_counter() - started)
    return {PREFILL: seconds[:1], DECODE: seconds[1:]}


def _time_writing(model: OnnxEncoderDecoder, task: Round) -> dict[str, list[float]]:
    import numpy as np

    inputs = _draw_inputs(model.inputs, task)
    tokens_bs = np.random.default_rng(task.seed).integers(task.vocab_size, size=(1, 1 + task.decode_tokens))
    model.decode(tokens_bs[:, :1], model.encode(inputs))
    started = time.perf_counter()
    source = model.encode(inputs)
    _, past = model.decode(tokens_bs[:, :1], source)
    encode, decode = time.perf_counter() - started, []
    for place in range(1, tokens_bs.shape[1]):
        started = time.perf_counter()
        _, past = model.decode(tokens_bs[:, place : place + 1], source, past)
        decode.append(time.perf_counter() - started)
    return {ENCODE: [encode], DECODE: decode}


def _draw_inputs(axes_by_input: Mapping[str, Sequence[int | str]], task: Round) -> dict[str, Any]:
    """One text, image or sound of the shapes that a graph takes."""
    import numpy as np

    generator = np.random.default_rng(task.seed)
    tokens_bs = generator.integers(task.vocab_size, size=(1, task.prompt_tokens))
    texts = {
        "input_ids": tokens_bs,
        "attention_mask": np.ones_like(tokens_bs),
        "token_type_ids": np.zeros_like(tokens_bs),
    }
    drawn = {}
    for name, (_, *sizes) in axes_by_input.items():
        # images and sounds have the one size that their model was made for
        drawn[name] = texts[name] if name in texts else generator.standard_normal((1, *map(int, sizes)), np.float32)
    return drawn


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _load(folder: Path, *, threads: int | None, provider: Provider) -> tuple[OnnxModel | TensorrtDecoder, Ready]:
    from amp_export.exporters.tensorrt.running import TensorrtDecoder

    started = time.perf_counter()
    model = run(folder, threads=threads, provider=provider)
    seconds = time.perf_counter() - started
    if isinstance(model, TensorrtDecoder):
        return model, Ready(seconds, model.threads, f"{model.facts.runtime} {model.facts.version}")
    import onnxruntime

    on = f" ({provider.onnxruntime_name})" if provider is not Provider.CPU else ""
    return model, Ready(seconds, model.threads, f"ONNX Runtime {onnxruntime.__version__}{on}")


def _take_stdout() -> TextIO:
    """Keeps standard output for answers; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


def main() -> None:
    """Serves rounds until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--provider", type=Provider, default=Provider.CPU)
    asked = parser.parse_args()
    answers = _take_stdout()
    try:
        model, ready = _load(asked.folder, threads=asked.threads, provider=asked.provider)
    except AmpExportError as error:
        _answer(answers, {"error": type(error).__name__, "message": str(error)})
        return
    _answer(answers, vars(ready))
    gc.disable()  # a collection in the middle of a token would count as its time
    for line in sys.stdin:
        _answer(answers, vars(time_round(model, Round(**json.loads(line)))))


if __name__ == "__main__":
    main()
