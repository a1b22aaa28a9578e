"""The roofline of decoding: the bytes that a step reads, divided by the memory bandwidth.

Writes and activations are ignored: they are small compared to weights and KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_export.architectures import Kind, LayerWidths, ModelConfig, stacked_names
from amp_export.architectures._footprint import parameters_read, seen_bytes, share_of_experts
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.benchmarking.workloads import Workload
from amp_export.checkpoints.reading import read_config, read_widths
from amp_export.checkpoints.vision_language import read_exported_config
from amp_export.options import Dtype

_READ_IN_PART = {
    ("Gather", 0),
    ("GatherBlockQuantized", 0),
    ("GatherBlockQuantized", 2),
    ("RotaryEmbedding", 1),
    ("RotaryEmbedding", 2),
    ("GroupQueryAttention", 7),
    ("GroupQueryAttention", 8),
}
"""Operators and their inputs that look up a few rows of a weight per token instead of reading all of it."""


@dataclass(frozen=True)
class StepBytes:
    """Bytes that one decode step reads.

    Attributes:
        weights: Bytes of weights, read once for the whole batch.
        cache: Bytes of the KV cache of the whole batch, halfway through decoding.
    """

    weights: int
    cache: int

    @property
    def total(self) -> int:
        """Bytes of weights and KV cache."""
        return self.weights + self.cache


@dataclass(frozen=True)
class Roofline:
    """The decode speedup that the bytes allow, and the share of it that was measured.

    Attributes:
        allowed_gain: Bytes per step of the dense model over those of the pruned one: the decode speedup if only reading
            took time.
        realised_gain: Measured speedup over the allowed speedup.
        interval: The 95 % interval of the realised share.
    """

    allowed_gain: float
    realised_gain: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, dense: StepBytes, pruned: StepBytes, decode: PhaseResult) -> Roofline:
        """Compare the measured speedup with the one that the bytes allow."""
        allowed = dense.total / pruned.total
        low, high = decode.interval
        return cls(allowed, decode.speedup / allowed, (low / allowed, high / allowed))


def step_bytes(
    folder: Path, workloads: Sequence[Workload], *, dtype: Dtype, graph: Path | None
) -> Sequence[StepBytes | None]:
    """Return the bytes that a decode step reads; None if the model does not decode, or its weights cannot be counted.

    Args:
        folder: An export or a checkpoint, for its config.
        workloads: The workloads.
        dtype: Dtype of the weights and the KV cache.
        graph: The ONNX graph of decode steps, whose weights are counted, or None.

    Returns:
        One entry per workload; the weights are the same in all.
    """
    raw, config = read_exported_config(folder)
    kind = config.architecture.kind
    if kind is Kind.ENCODER or (kind is Kind.ENCODER_DECODER and graph is None):
        return [None] * len(workloads)
    weights = weight_bytes_per_token(graph, config) if graph is not None else None
    if kind is Kind.ENCODER_DECODER:
        assert weights is not None
        # the size of the source's keys and values is not counted: the config fields differ between families
        return [StepBytes(weights, 0)] * len(workloads)
    widths = read_widths(folder / "config.json", raw, config)
    if weights is None:
        weights = dtype.bytes * parameters_read(config, widths)
    return [_step_bytes(config, widths, workload, weights=weights, cache_dtype=dtype) for workload in workloads]


def file_step_bytes(folder: Path, workloads: Sequence[Workload], *, weights: int) -> Sequence[StepBytes]:
    """Return the bytes that a decode step of llama.cpp reads, whose KV cache is in float16 by default.

    Args:
        folder: An export, for its config.
        workloads: The workloads.
        weights: Bytes of the weights that are read for each token.
    """
    raw, config = read_config(folder)
    widths = read_widths(folder / "config.json", raw, config)
    dtype = Dtype.FLOAT16
    return [_step_bytes(config, widths, workload, weights=weights, cache_dtype=dtype) for workload in workloads]


def _step_bytes(
    config: ModelConfig, widths: Sequence[LayerWidths], workload: Workload, *, weights: int, cache_dtype: Dtype
) -> StepBytes:
    past = workload.prompt_tokens + workload.decode_tokens // 2
    return StepBytes(weights, workload.batch_size * seen_bytes(config, widths, past, cache_dtype.bytes))


def weight_bytes_per_token(graph: Path, config: ModelConfig | None = None) -> int:
    """Return the bytes of a graph's weights that are read for one token.

    Each weight counts once, even if embedding and LM head share it. Weights from which only rows are looked up do not
    count, nor do those of experts that a token does not go through.

    Args:
        graph: File of the graph.
        config: Config of the decoder, which says how many experts a token goes through; None if there are none.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False).graph
    read_whole = {
        name
        for node in model.node
        for place, name in enumerate(node.input)
        if (node.op_type, place) not in _READ_IN_PART
    }
    sizes = {tensor.name: _stored_bytes(tensor) for tensor in model.initializer if tensor.name in read_whole}
    of_experts = tuple(f"{name}." for name in stacked_names(config)) if config is not None else ()
    sent = sum(size for name, size in sizes.items() if name.startswith(of_experts))
    left_out = 1 - share_of_experts(config) if config is not None else 0
    return sum(sizes.values()) - round(left_out * sent)


def _stored_bytes(tensor: Any) -> int:
    external = {entry.key: entry.value for entry in tensor.external_data}
    return int(external.get("length", len(tensor.raw_data)))
