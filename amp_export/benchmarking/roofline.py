"""The roofline of decoding: the bytes that a step has to read, over the bandwidth at which memory gives them.

Writes and activations are left out: they are small compared to weights and KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_export.architectures import Kind
from amp_export.architectures._footprint import parameters_read, seen_numbers
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.benchmarking.workloads import Workload
from amp_export.checkpoints.reading import read_config, read_widths
from amp_export.options import Dtype

_READ_IN_PART = {("Gather", 0), ("RotaryEmbedding", 1), ("RotaryEmbedding", 2)}
"""Operators, and which of their inputs, that read a few rows of a weight for each token instead of all of it."""


@dataclass(frozen=True)
class StepBytes:
    """What one decoding step reads.

    Attributes:
        weights: Bytes of weights: once, however many texts there are.
        cache: Bytes of KV cache, of all texts, in the middle of what is written.
    """

    weights: int
    cache: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.cache


@dataclass(frozen=True)
class Roofline:
    """What pruning allowed, and what came of it.

    Attributes:
        allowed_gain: Bytes of a step of the dense model over those of the pruned one: the decoding speedup if nothing
            but reading took time.
        realised_gain: The share of that speedup that was measured.
        interval: The 95 % interval of that.
    """

    allowed_gain: float
    realised_gain: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, dense: StepBytes, pruned: StepBytes, decode: PhaseResult) -> Roofline:
        """Compare what was measured with what the bytes allow."""
        allowed = dense.total / pruned.total
        low, high = decode.interval
        return cls(allowed, decode.speedup / allowed, (low / allowed, high / allowed))


def step_bytes(
    folder: Path, workloads: Sequence[Workload], *, dtype: Dtype, graph: Path | None
) -> Sequence[StepBytes | None]:
    """Return what a decoding step of a model reads; None for what does not decode, or whose weights cannot be counted.

    Args:
        folder: An export or a checkpoint, for its config.
        workloads: How much is read and written.
        dtype: Of weights, keys and values.
        graph: The decoding ONNX graph, if there is one: it lists the weights.

    Returns:
        One entry a workload; weights are the same in all.
    """
    raw, config = read_config(folder)
    kind = config.architecture.kind
    if kind is Kind.ENCODER or (kind is Kind.ENCODER_DECODER and graph is None):
        return [None] * len(workloads)
    weights = weight_bytes_per_token(graph) if graph is not None else None
    if kind is Kind.ENCODER_DECODER:
        assert weights is not None
        # of a source's keys and values configs do not tell in the same words
        return [StepBytes(weights, 0)] * len(workloads)
    widths = read_widths(folder / "config.json", raw, config)
    if weights is None:
        weights = dtype.bytes * parameters_read(config, widths)
    pasts = [workload.prompt_tokens + workload.decode_tokens // 2 for workload in workloads]
    return [
        StepBytes(weights, dtype.bytes * workload.batch_size * seen_numbers(config, widths, past))
        for workload, past in zip(workloads, pasts, strict=True)
    ]


def weight_bytes_per_token(graph: Path) -> int:
    """Return how many bytes of a graph's weights have to be read for one token.

    Each weight counts once and whole, also where embedding and head share it, but a weight of which only rows are
    looked up does not count.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False).graph
    read_whole = {
        name
        for node in model.node
        for place, name in enumerate(node.input)
        if (node.op_type, place) not in _READ_IN_PART
    }
    return sum(_stored_bytes(tensor) for tensor in model.initializer if tensor.name in read_whole)


def _stored_bytes(tensor: Any) -> int:
    external = {entry.key: entry.value for entry in tensor.external_data}
    return int(external.get("length", len(tensor.raw_data)))
