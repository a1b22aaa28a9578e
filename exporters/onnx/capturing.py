"""Which exports can decode by CUDA graphs in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from amp_export.errors import RequestError
from amp_export.exporters.models.caches import fixed_length, is_past, is_state
from amp_export.exporters.onnx.descriptions import read_interface
from amp_export.exporters.onnx.sessions import exported_graphs
from amp_export.options import Dtype, Operators


def check_capturable(folder: Path) -> None:
    """Refuse exports whose steps have no fixed shapes, or do not run on a GPU as a whole.

    Raises:
        RequestError: It is no decoder of one graph, has states, a cache that grows, or fused operators in float32.
        ModelError: The graph is missing or damaged.
    """
    *others, graph = exported_graphs(folder)
    inputs, operators, dtype = read_interface(graph)
    past = [name for name in inputs if is_past(name)]
    asked = "A CUDA graph replays the step of a decoder"
    if others or not past:
        raise RequestError(f"{asked}, and {folder} holds no decoder of one graph.\nMeasure it without --cuda-graph.")
    if any(map(is_state, past)):
        raise RequestError(
            f"{asked} in place, and the one in {folder} has states, which a step cannot update in place.\n"
            "Measure it without --cuda-graph."
        )
    is_fused = operators is Operators.ONNXRUNTIME
    if not is_fused and fixed_length(inputs) is None:
        raise RequestError(
            f"{asked} in fixed shapes, and the KV cache of the one in {folder} grows with each token.\n"
            "Export it again with --operators onnxruntime, or with --static-cache N."
        )
    # GroupQueryAttention has CUDA kernels for these two: contrib_ops/cuda/bert/group_query_attention.cc, 1.32
    if is_fused and dtype is Dtype.FLOAT32:
        raise RequestError(
            f"{asked} if all of it runs on the GPU, and ONNX Runtime computes GroupQueryAttention in float32, as in "
            f"{folder}, on the CPU.\nExport it again with --dtype float16 or bfloat16."
        )
