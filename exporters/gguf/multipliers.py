"""Multipliers that llama.cpp does not compute: the weights and biases of a file are multiplied with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amp_export.architectures import ModelConfig, Total, part_lengths

if TYPE_CHECKING:
    import numpy as np

    from amp_export.exporters.gguf.planned import PlannedTensor

    Array = np.ndarray[Any, np.dtype[Any]]

Parts = tuple[tuple[float, ...], tuple[int, ...]]
"""Multipliers of the parts of a tensor's rows, and the number of rows of each; no numbers if there is one part."""


def multiplied_tensors(
    config: ModelConfig, tensors: Iterable[PlannedTensor], outside: Mapping[str, float]
) -> Iterator[PlannedTensor]:
    """Yield tensors multiplied with what the model multiplies their results with.

    Args:
        config: The checkpoint's config.
        tensors: The tensors as the checkpoint has them.
        outside: The multipliers of tensors outside the layers, by their names in the file.
    """
    inside = dict(_layer_multipliers(config))
    for tensor in tensors:
        name_in_layer = tensor.name.split(".", 2)[-1]
        factors, lengths = inside.get(name_in_layer, ((outside.get(tensor.name, 1.0),), ()))
        yield tensor if set(factors) == {1.0} else _multiplied(tensor, factors, lengths)


def _layer_multipliers(config: ModelConfig) -> Iterator[tuple[str, Parts]]:
    """Yield the names of the tensors of linear layers within a layer, and their multipliers."""
    architecture = config.architecture
    assert architecture.computation is not None
    for block, names in (
        (architecture.attention, ("attn_q", "attn_k", "attn_v", "attn_output")),
        (architecture.mixer, ("ssm_in", "ssm_out")),
        (architecture.mlp, ("ffn_gate", "ffn_up", "ffn_down")),
    ):
        if block is None:
            continue
        read = config.factor(architecture.computation.read_factors.get(block.module))
        for name, projection in zip(names, (*block.inputs, block.output), strict=True):
            factors, writes = config.write_factors(projection), projection.writes
            lengths = part_lengths(config, writes) if isinstance(writes, Total) else ()
            reads = read if projection is not block.output else 1.0
            yield f"{name}.weight", (tuple(reads * each for each in factors), lengths)
            # a bias is no product with what is read
            yield f"{name}.bias", (factors, lengths)


def _multiplied(tensor: PlannedTensor, factors: Sequence[float], lengths: Sequence[int]) -> PlannedTensor:
    """Return a tensor whose rows are multiplied: all with one number, or those of each part with its own."""
    import numpy as np

    def read() -> Array:
        values: Array = tensor.read().astype(np.float32)
        rows = np.repeat(factors, lengths) if len(factors) > 1 else np.array(factors)
        values *= rows.astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
        return values

    return replace(tensor, read=read)
