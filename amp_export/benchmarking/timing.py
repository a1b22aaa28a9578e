"""One round of a benchmark: a workload is run on a model, and its calls are timed.

Tokens are drawn at random, not selected by logits: the selection would be timed, and both models need the same tokens.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import SPATIAL_SHAPES, Modality
from amp_export.benchmarking.runners.base import Axes, DecoderRunner, EncoderRunner, Runner, Seq2SeqRunner
from amp_export.benchmarking.workloads import WAVEFORM_SAMPLES, Workload
from amp_export.hardware.machine import peak_memory_bytes
from amp_export.inputs.patches import MOST_PATCHES, describe_patches
from amp_export.inputs.random import INPUT_NAMES, WAVEFORM
from amp_export.options import Phase

if TYPE_CHECKING:
    import torch

    from amp_export.exporters.models.session import Integers


FORWARD_CALLS = 4
"""Number of timed calls of an encoder per round."""


@dataclass(frozen=True)
class Round:
    """The task of one round.

    Attributes:
        workload: The workload.
        vocab_size: Number of tokens to draw from.
        seed: Seed of the tokens.
    """

    workload: Workload
    vocab_size: int
    seed: int


@dataclass(frozen=True)
class RoundTimes:
    """Times of one round.

    Attributes:
        phases: Seconds of each call, by phase.
        peak_memory_bytes: Peak memory of the process so far.
    """

    phases: Mapping[Phase, Sequence[float]]
    peak_memory_bytes: int

    @property
    def total(self) -> float:
        """Total seconds of all calls."""
        return sum(map(sum, self.phases.values()))


def time_round(runner: Runner, task: Round, clock: Clock) -> RoundTimes:
    """Run the input twice, and time the second run and every decoded token.

    The first run has cold caches because the other process ran before: 216 ms, compared to 180 ms for the next.
    """
    if isinstance(runner, DecoderRunner):
        phases = _time_decoder(runner, task, clock)
    elif isinstance(runner, Seq2SeqRunner):
        phases = _time_writer(runner, task, clock)
    else:
        assert isinstance(runner, EncoderRunner)
        inputs = draw_inputs(runner.inputs, task)
        runner.forward(inputs)
        phases = {Phase.FORWARD: [clock.seconds(lambda: runner.forward(inputs)) for _ in range(FORWARD_CALLS)]}
    return RoundTimes(phases, peak_memory_bytes())


def _time_decoder(runner: DecoderRunner, task: Round, clock: Clock) -> dict[Phase, list[float]]:
    work = task.workload
    total = work.prompt_tokens + work.decode_tokens
    tokens_bt = _draw_tokens(task, total)
    prompt_bs = tokens_bt[:, : work.prompt_tokens].copy()
    runner.prefill(prompt_bs, total_tokens=total)
    prefill = clock.seconds(lambda: runner.prefill(prompt_bs, total_tokens=total))
    return {Phase.PREFILL: [prefill], Phase.DECODE: _time_tokens(runner, tokens_bt[:, work.prompt_tokens :], clock)}


def _time_writer(runner: Seq2SeqRunner, task: Round, clock: Clock) -> dict[Phase, list[float]]:
    inputs = draw_inputs(runner.inputs, task)
    tokens_bt = _draw_tokens(task, 1 + task.workload.decode_tokens)
    start_b1 = tokens_bt[:, :1].copy()
    runner.encode(inputs, start_b1)
    encode = clock.seconds(lambda: runner.encode(inputs, start_b1))
    return {Phase.ENCODE: [encode], Phase.DECODE: _time_tokens(runner, tokens_bt[:, 1:], clock)}


def _time_tokens(runner: DecoderRunner | Seq2SeqRunner, tokens_bt: Integers, clock: Clock) -> list[float]:
    columns = (tokens_bt[:, place : place + 1].copy() for place in range(tokens_bt.shape[1]))
    return [clock.seconds(lambda token_b1=token_b1: runner.decode(token_b1)) for token_b1 in columns]  # type: ignore[misc]


def _draw_tokens(task: Round, length: int) -> Integers:
    import numpy as np

    return np.random.default_rng(task.seed).integers(task.vocab_size, size=(task.workload.batch_size, length))


def draw_inputs(axes_by_input: Axes, task: Round) -> dict[str, Any]:
    """Return a batch of texts, images or audio in the shapes of a model's inputs."""
    import numpy as np

    batch_size = task.workload.batch_size
    generator = np.random.default_rng(task.seed)
    if WAVEFORM in axes_by_input:
        waveforms = generator.standard_normal((batch_size, WAVEFORM_SAMPLES), np.float32)
        return {name: waveforms if name == WAVEFORM else np.ones_like(waveforms, np.int64) for name in axes_by_input}
    if SPATIAL_SHAPES in axes_by_input:
        name = INPUT_NAMES[Modality.IMAGE]
        patches = generator.standard_normal((batch_size, MOST_PATCHES, int(axes_by_input[name][-1])), np.float32)
        return {name: patches, **describe_patches([MOST_PATCHES] * batch_size)}
    tokens_bs = _draw_tokens(task, task.workload.prompt_tokens)
    texts = {
        "input_ids": tokens_bs,
        "attention_mask": np.ones_like(tokens_bs),
        "token_type_ids": np.zeros_like(tokens_bs),
    }
    # images, and audio that is not raw, have a fixed size
    return {
        name: texts[name] if name in texts else generator.standard_normal((batch_size, *map(int, sizes)), np.float32)
        for name, (_, *sizes) in axes_by_input.items()
    }


class Clock(ABC):
    """A clock that times calls.

    Attributes:
        name: Name in a report.
    """

    name: str

    @abstractmethod
    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds that a call takes until its results are available."""


class WallClock(Clock):
    """The monotonic clock, for calls that return when their results are available."""

    name = "wall clock"

    def seconds(self, call: Callable[[], object]) -> float:
        """See `Clock`."""
        started = time.perf_counter()
        call()
        return time.perf_counter() - started


class EventClock(Clock):
    """CUDA events, which the GPU timestamps when its stream reaches them; CPU work alone is not timed.

    Source: `torch.cuda.Event`, torch 2.13; the resolution is about half a microsecond, cudaEventElapsedTime.
    """

    name = "CUDA events"

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """Create a clock for calls that run on a stream."""
        self._stream = stream

    def seconds(self, call: Callable[[], object]) -> float:
        """See `Clock`."""
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # neither work queued earlier nor the wait for the first kernel of this call must count
        self._stream.synchronize()
        start.record(self._stream)
        call()
        end.record(self._stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
