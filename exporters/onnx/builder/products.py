"""Products with the weights of linear layers, and rows of embeddings, quantized or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.builder.layout import codes_name, rows_name, scales_name

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.blocks import BlockFormat
    from amp_export.exporters.onnx.builder.nodes import Graph

ACCURACY_LEVEL, EXACT_LEVEL = 4, 1
"""Accuracy levels of products with quantized weights in ONNX Runtime: with activations that are rounded to int8 in each
block, and in float32. On two cores, SmolLM2-135M decoded in 9.0 ms with the first and 12.6 ms with the second."""


def add_product(graph: Graph, weight: str, value: str, *, output: str) -> str:
    """Add the product of a value and a linear layer's weight, which is [inputs, outputs] unless it is quantized.

    ONNX Runtime fuses DequantizeLinear (version 21) and MatMul to MatMulNBits when it loads a graph.
    """
    form = graph.format_of(weight)
    if form is None:
        return graph.add("MatMul", value, graph.weight(weight), output=output)
    codes, scales = graph.weight(codes_name(weight)), graph.weight(scales_name(weight))
    if not graph.is_fused:
        by_block = {"axis": 1} if form.is_float else {"axis": 0, "block_size": form.block_size}
        made = graph.add("DequantizeLinear", codes, scales, output=f"{weight}.dequantized", **by_block)
        return graph.add("MatMul", value, made, output=output)
    return _add_fused_product(graph, codes, scales, value, form=form, shape=graph.shape_of(scales), output=output)


def _add_fused_product(
    graph: Graph, codes: str, scales: str, value: str, *, form: BlockFormat, shape: Sequence[int], output: str
) -> str:
    """Add MatMulNBits; the shape is that of the scales."""
    outputs, blocks = shape
    sizes = {"K": blocks * form.block_size, "N": outputs, "bits": form.bits, "block_size": form.block_size}
    graph.add_fused("MatMulNBits", value, codes, scales, outputs=[output], accuracy_level=ACCURACY_LEVEL, **sizes)
    return output


def add_linear(graph: Graph, weight: str, value: str, *, bias: str | None, output: str) -> str:
    """Add a product as `add_product` does, and a bias if there is one."""
    if bias is None:
        return add_product(graph, weight, value, output=output)
    product = add_product(graph, weight, value, output=f"{output}.product")
    return graph.add("Add", product, graph.weight(bias), output=output)


def add_packed_linear(graph: Graph, pack: str, names: Sequence[str], value: str) -> str:
    """Add several linear layers, whose tensors lie side by side, as one.

    Args:
        graph: Graph to add it to.
        pack: Name of their pack, and of the result.
        names: Names of the layers.
        value: Their input.

    Returns:
        Their outputs, side by side on the last axis.
    """
    weights = [f"{name}.weight" for name in names]
    form = graph.format_of(weights[0])
    assert form is not None, f"{pack} is quantized"
    codes = graph.joined(codes_name(pack), [codes_name(weight) for weight in weights])
    scales = graph.joined(scales_name(pack), [scales_name(weight) for weight in weights])
    shapes = [graph.shape_of(scales_name(weight)) for weight in weights]
    shape = sum(rows for rows, _ in shapes), shapes[0][1]
    biases = [f"{name}.bias" for name in names]
    has_bias = graph.has_weight(biases[0])
    output = f"{pack}.product" if has_bias else pack
    product = _add_fused_product(graph, codes, scales, value, form=form, shape=shape, output=output)
    return graph.add("Add", product, graph.joined(f"{pack}.bias", biases), output=pack) if has_bias else product


def add_rows(graph: Graph, weight: str, places: str, *, output: str) -> str:
    """Add the rows of an embedding at some places; those of quantized ones are shared with the product's codes."""
    form = graph.format_of(weight)
    if form is None or not graph.is_fused:
        return graph.add("Gather", graph.weight(weight), places, output=output, axis=0)
    codes = _rows_of(graph, weight, form)
    graph.add_fused(
        "GatherBlockQuantized",
        *(codes, places, graph.weight(scales_name(weight))),
        outputs=[output],
        bits=form.bits,
        block_size=form.block_size,
        gather_axis=0,
        quantize_axis=1,
    )
    return output


def _rows_of(graph: Graph, weight: str, form: BlockFormat) -> str:
    """Return the codes of a weight as a matrix of bytes."""
    outputs, blocks = graph.shape_of(scales_name(weight))
    row = blocks * form.block_size * form.bits // 8
    return graph.weight_as(rows_name(weight), codes_name(weight), [outputs, row])
