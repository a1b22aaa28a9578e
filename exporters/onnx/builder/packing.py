"""Quantized projections to queries, keys and values that lie side by side, so that one product computes all three.

GroupQueryAttention takes them so. On two cores, SmolLM2-135M in int4 decoded 1.08 times as fast [1.05, 1.11] as with
three products; in float32, where reading the weights takes the time, it made no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.builder.onnxruntime import rotates
from amp_export.exporters.onnx.builder.rotary import ropes

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig
    from amp_export.exporters.onnx.builder.blocks import BlockFormat

_NAME = "queries_keys_values"


def find_packs(config: ModelConfig, formats: Mapping[str, BlockFormat]) -> dict[str, str]:
    """Return the name of the pack that a projection's weight or bias is in, for each that is in one.

    There is none where more than a multiplication is computed between projection and attention: norms of heads, a
    factor by position, a gate, or a rotation that GroupQueryAttention does not do.

    Args:
        config: Config of a decoder that is built with ONNX Runtime's operators.
        formats: Formats of the weights that are quantized, by name.
    """
    attention, computation = config.architecture.attention, config.architecture.computation
    assert computation is not None
    names = [projection.name for projection in attention.inputs]
    has_bias = {config.biases[name] for name in names}
    is_plain = computation.attention_scale.by_position is None and not computation.gates_attention
    if len(names) != 3 or len(has_bias) > 1 or config.head_norms or not is_plain:
        return {}
    found: dict[str, str] = {}
    known = ropes(config)
    for layer, kind in enumerate(config.layer_ropes):
        scope = f"{config.architecture.layers}.{layer}"
        forms = {formats.get(f"{scope}.{name}.weight") for name in names}
        is_placed = kind is None or rotates(known[kind], config.head_dim)
        if len(forms) == 1 and None not in forms and is_placed:
            parts = ("weight", "bias") if has_bias == {True} else ("weight",)
            pack = f"{scope}.{attention.module}.{_NAME}"
            found |= {f"{scope}.{name}.{part}": pack for name in names for part in parts}
    return found


def describe_rows(rows: Mapping[str, int]) -> str:
    """Return the description of a packed tensor: the names of its parts, and how many rows each has."""
    return " ".join(f"{name}:{count}" for name, count in rows.items())


def read_rows(description: str) -> dict[str, int]:
    """Return what `describe_rows` described; empty for a tensor that is not packed."""
    pairs = (part.rpartition(":") for part in description.split())
    return {name: int(count) for name, _, count in pairs}
