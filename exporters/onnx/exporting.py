"""Exports a checkpoint to a folder with an ONNX graph, without torch or transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amp_export.architectures import matrix_shapes
from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.older_versions import name_tokenizer_class, write_config
from amp_export.checkpoints.reading import Checkpoint
from amp_export.checkpoints.source_files import copy_files
from amp_export.errors import OutputError, UnsupportedModelError
from amp_export.exporters.files import GRAPH, WEIGHTS, data_name
from amp_export.exporters.onnx.builder.entries import OF_TOKENS, Entry
from amp_export.exporters.onnx.builder.formats import choose_formats
from amp_export.exporters.onnx.builder.graph import build_graph
from amp_export.exporters.onnx.builder.layout import lay_out
from amp_export.exporters.onnx.builder.weights import Rounding, write_weights
from amp_export.exporters.onnx.descriptions import describe_choices
from amp_export.exporters.onnx.genai import write_genai_config
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.exporters.onnx.support import require_buildable
from amp_export.options import Dtype, Logits, Operators, Opset


@dataclass(frozen=True)
class OnnxExport:
    """An exported decoder.

    Attributes:
        folder: Folder of the export.
        dtype: Dtype of its weights and activations.
        graph: File of the graph.
        weights: File of the weights.
        opset: Version of the ONNX operators.
        bytes_on_disk: Size of all files in the folder.
    """

    folder: Path
    dtype: Dtype
    graph: Path
    weights: Path
    opset: Opset
    bytes_on_disk: int


@dataclass(frozen=True)
class GraphChoices:
    """How the graph of a decoder is made.

    Attributes:
        dtype: Dtype of weights, activations, KV cache and logits.
        opset: Version of the ONNX operators.
        operators: Whether fused operators of ONNX Runtime may be used.
        logits: Tokens whose logits are computed.
        quantization: How the weights of linear layers are stored; None keeps them in `dtype`.
        rounding: How weights are quantized; None rounds each to its nearest code.
        cache_length: Tokens that a KV cache of fixed length has room for; None if it grows.
    """

    dtype: Dtype = Dtype.FLOAT32
    opset: Opset = Opset.OPSET_23
    operators: Operators = Operators.STANDARD
    logits: Logits = Logits.ALL
    quantization: Quantization | None = None
    rounding: Rounding | None = None
    cache_length: int | None = None


def export(  # noqa: PLR0913  a parameter for each choice that a graph has
    checkpoint: Checkpoint,
    folder: Path,
    *,
    dtype: Dtype = Dtype.FLOAT32,
    opset: Opset = Opset.OPSET_23,
    operators: Operators = Operators.STANDARD,
    logits: Logits = Logits.ALL,
    quantization: Quantization | None = None,
    rounding: Rounding | None = None,
    cache_length: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> OnnxExport:
    """Export a decoder as one graph for prefill and decode, with config, tokenizer and genai_config.json next to it.

    The inputs and outputs are those of `graph.build_graph`.

    Args:
        checkpoint: Checkpoint to export.
        folder: Folder to create; an existing folder must be empty.
        dtype: Dtype of weights, activations, KV cache and logits.
        opset: Version of the ONNX operators.
        operators: Whether fused operators of ONNX Runtime may be used.
        logits: Tokens whose logits are computed.
        quantization: How the weights of linear layers are stored; None keeps them in `dtype`.
        rounding: How weights are quantized; by default each to its nearest code.
        cache_length: Tokens that a KV cache of fixed length has room for, in opset 24; by default it grows.
        on_progress: Called with the number of written layers and their total, after each.

    Raises:
        UnsupportedModelError: The weights' layout is not supported, or the graph cannot be built: see `can_build`.
        ModelError: A weight is NaN or infinite, or a RoPE parameter is missing.
        RequestError: A weight is too large for `dtype`, or blocks do not divide it.
        OutputError: The folder is not empty, or the disk has no room for the weights.
    """
    choices = GraphChoices(dtype, opset, operators, logits, quantization, rounding, cache_length)
    inputs = write_decoder(checkpoint, folder / GRAPH, choices, on_progress=on_progress)
    write_config(folder, checkpoint.raw_config)
    copy_files(checkpoint.companions(), folder, base=checkpoint.path)
    name_tokenizer_class(folder)
    has_blocks = quantization is not None and quantization.block_size is not None
    if cache_length is None:  # onnxruntime-genai gives a graph no places to write to
        write_genai_config(checkpoint, folder, graph=GRAPH, inputs=inputs, operators=operators, has_blocks=has_blocks)
    return OnnxExport(
        folder=folder,
        dtype=dtype,
        graph=folder / GRAPH,
        weights=folder / WEIGHTS,
        opset=opset,
        bytes_on_disk=directory_size(folder),
    )


def write_decoder(
    checkpoint: Checkpoint,
    file: Path,
    choices: GraphChoices,
    *,
    entry: Entry = OF_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the graph of a decoder, and its weights beside it.

    Args:
        checkpoint: Checkpoint to export.
        file: The graph; an existing folder of it must be empty.
        choices: How the graph is made.
        entry: What it reads.
        on_progress: Called with the number of written layers and their total, after each.

    Returns:
        The names of the graph's inputs.

    Raises:
        OutputError: The folder is not empty, or the disk has no room for the weights.
        AmpExportError: See `export`.
    """
    require_buildable(checkpoint.config)
    _check_layout(checkpoint)
    folder, weights = file.parent, data_name(file)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not an empty folder.\nRemove it, or export to another folder.")

    config, widths, operators, dtype = checkpoint.config, checkpoint.widths, choices.operators, choices.dtype
    formats = choose_formats(config, widths, choices.quantization, operators)
    folder.mkdir(parents=True, exist_ok=True)
    stored = lay_out(config, widths, dtype, formats=formats, operators=operators, entry=entry)
    _require_space(folder, sum(tensor.nbytes for tensor in stored))
    model = build_graph(
        config,
        widths,
        stored,
        dtype=dtype,
        opset=choices.opset,
        operators=operators,
        logits=choices.logits,
        cache_length=choices.cache_length,
        entry=entry,
        data_file=weights.name,
        metadata=describe_choices(operators, choices.quantization),
    )
    file.write_bytes(model.SerializeToString())
    write_weights(checkpoint, stored, weights, dtype=dtype, rounding=choices.rounding, on_progress=on_progress)
    return [each.name for each in model.graph.input]


def _require_space(folder: Path, nbytes: int) -> None:
    """Check that weights fit on the disk, before any are written.

    Raises:
        OutputError: They do not.
    """
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OutputError(
            f"The weights take {nbytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free where {folder} is.\nFree some "
            "space, or choose an --output on another disk."
        )


def _check_layout(checkpoint: Checkpoint) -> None:
    """Check the weights against the layout that the graph is built for."""
    config, found = checkpoint.config, checkpoint.tensors
    name = config.architecture.class_name
    if len(checkpoint.widths) != config.num_hidden_layers:
        raise UnsupportedModelError(
            f"{checkpoint.path} has widths for {len(checkpoint.widths)} layers, but config.json has "
            f"{config.num_hidden_layers} layers.\nSupported: a {name} with widths for each of its layers."
        )
    for tensor, shape in matrix_shapes(config, checkpoint.widths).items():
        if tensor not in found or found[tensor].shape != shape:
            has = f"the shape {list(found[tensor].shape)}" if tensor in found else "no such tensor"
            raise UnsupportedModelError(
                f"{checkpoint.path}: {tensor} must have the shape {list(shape)}, but there is {has}.\n"
                f"Supported: the tensors of a {name}, each layer with its own numbers of heads and neurons."
            )
