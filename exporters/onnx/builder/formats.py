"""Which weights of a decoder are quantized, and in which format."""

from __future__ import annotations

from collections.abc import Sequence

from amp_export.architectures import Experts, LayerWidths, ModelConfig, matrix_shapes
from amp_export.errors import RequestError
from amp_export.exporters.onnx.builder.blocks import BlockFormat
from amp_export.exporters.onnx.builder.layout import linear_weights, split_name, weight_names
from amp_export.exporters.onnx.quantization import BLOCK_SIZES, MANY_BITS, Quantization
from amp_export.options import Operators, WeightFormat


def choose_formats(
    config: ModelConfig, widths: Sequence[LayerWidths], quantization: Quantization | None, operators: Operators
) -> dict[str, BlockFormat]:
    """Return the format of each weight that is quantized: those of linear layers, the LM head, and the embedding.

    What sends tokens to experts is not: it is small, and an error sends them elsewhere. The embedding is quantized only
    for ONNX Runtime's operators, which look up rows of codes, or if it is the LM head.

    Args:
        config: Config of the decoder.
        widths: Widths of each layer.
        quantization: What was asked for; None for nothing.
        operators: Operators of the graph.

    Raises:
        RequestError: The block size is not supported, or does not divide the inputs of a weight.
    """
    if quantization is None:
        return {}
    size = quantization.block_size
    if size is not None and size not in BLOCK_SIZES:
        raise RequestError(
            f"--block-size {size} is not supported.\nGive one of {', '.join(map(str, BLOCK_SIZES))}; TensorRT "
            "documents 64 and 128."
        )
    architecture, linear = config.architecture, linear_weights(config)
    if isinstance(architecture.mlp, Experts):
        for projection in architecture.mlp.routing:
            del linear[f"{projection.name}.weight"]
    pruned = weight_names(config, architecture.mlp.output)
    found: dict[str, BlockFormat] = {}
    for name, shape in matrix_shapes(config, widths).items():
        layer, below = split_name(name, architecture.layers)
        in_layer = layer is not None and below in linear
        is_embedding = name == f"{architecture.embedding}.weight"
        is_head = name == f"{architecture.head}.weight" or (is_embedding and config.tie_word_embeddings)
        if not (in_layer or is_head or (is_embedding and operators is Operators.ONNXRUNTIME)):
            continue
        inputs = shape[0] if in_layer and not linear[below] else shape[1]
        if size is not None and inputs % size:
            raise RequestError(_undivided(name, inputs, size, is_pruned=below in pruned))
        bits = MANY_BITS if name in quantization.at_8_bits else quantization.weights.bits
        found[name] = BlockFormat(bits, size or inputs, is_float=quantization.weights is WeightFormat.FP8)
    return found


def _undivided(name: str, inputs: int, size: int, *, is_pruned: bool) -> str:
    """Return the message for a weight that blocks do not divide; only the number of neurons can be chosen freely."""
    smaller = [each for each in BLOCK_SIZES if inputs % each == 0]
    advice = [f"give --block-size {max(smaller)}"] if smaller else []
    if is_pruned:
        near = [each for each in (inputs // size * size, inputs // size * size + size) if each]
        advice.append(f"prune to a multiple of neurons, such as {' or '.join(map(str, near))}: --snap {size}")
    said = "; or ".join(advice) or "leave --weights out: no block size divides it"
    return f"{name} has {inputs} inputs, which blocks of {size} do not divide.\n{said[0].upper()}{said[1:]}."
