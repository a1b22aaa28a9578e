"""Formats of the weights of an export, resolved and checked before anything is written."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from amp_export.checkpoints.loading import has_tokenizer
from amp_export.errors import RequestError
from amp_export.exporters.gguf.blocks import BLOCK
from amp_export.exporters.onnx.builder.formats import choose_formats
from amp_export.exporters.onnx.quantization import DEFAULT_BLOCK_SIZE, FEW_BITS, MANY_BITS, Quantization
from amp_export.exporting.gguf import check_formats
from amp_export.hardware.target_facts import NumberFormat
from amp_export.hardware.targets import TARGETS
from amp_export.options import Format, Operators, Opset, RoundingMethod, WeightFormat
from amp_export.verb_options import ExportOptions, PruneOptions

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint

_BLOCK_SIZES = {Format.ONNX: DEFAULT_BLOCK_SIZE, Format.TENSORRT: 128, Format.GGUF: BLOCK}
"""Default block sizes. TensorRT documents 64 and 128 for int4 ("Working with Quantized Types"); the larger blocks have
fewer scales to read."""


def fit_blocks(prune: PruneOptions, export: ExportOptions) -> PruneOptions:
    """Return options of `prune` with which every layer keeps whole blocks of neurons, if weights are quantized.

    Raises:
        RequestError: The multiple that was asked for leaves parts of blocks.
    """
    if export.weights in (None, WeightFormat.FP8) or prune.plan is not None or export.to not in _BLOCK_SIZES:
        return prune
    size = export.block_size or _BLOCK_SIZES[export.to]
    if prune.snap is None:
        return replace(prune, snap=math.lcm(size, TARGETS[prune.target].neuron_multiple))
    if prune.snap % size:
        raise RequestError(
            f"--snap {prune.snap} may keep a number of neurons that blocks of {size} weights do not divide.\nGive a "
            f"multiple of {size}, or leave it out."
        )
    return prune


def choose_quantization(checkpoint: Checkpoint, options: ExportOptions) -> Quantization | None:
    """Return the format of weights that was asked for.

    Raises:
        RequestError: It does not apply to the export format, or only a block size was given.
    """
    if options.weights is None:
        blocks = None if options.block_size is None else f"--block-size {options.block_size}"
        if asked := blocks or _needs_text(options):
            raise RequestError(f"{asked} is for quantized weights.\nGive --weights int4 with it.")
        return None
    check_formats(options)
    if options.to not in _BLOCK_SIZES:
        raise RequestError(
            f"--weights {options.weights} is for --to onnx and --to tensorrt, not for --to {options.to}.\nLeave it "
            "out, or export to one of these."
        )
    if options.to is Format.TENSORRT and options.weights is WeightFormat.INT8:
        raise RequestError(
            "TensorRT has no blocks of int8: of weights alone, it takes int4 and fp8.\nGive one of these, or --to onnx."
        )
    if options.weights is WeightFormat.FP8:
        _check_fp8(options)
    if options.average_bits is not None:
        _check_average(options.average_bits, options)
    if options.rounding is RoundingMethod.GPTQ and options.weights is not WeightFormat.INT4:
        raise RequestError(
            f"--rounding gptq makes up for errors of 4 bits; those of {options.weights} are small.\nLeave it out, or "
            "give --weights int4."
        )
    _check_text(checkpoint, options)
    if options.weights is WeightFormat.FP8:
        return Quantization(options.weights, None)
    return Quantization(options.weights, options.block_size or _choose_block_size(checkpoint, options))


def _check_text(checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Check that an option that looks at text can do so.

    Raises:
        RequestError: There is no tokenizer, or the model has experts.
    """
    if (asked := _needs_text(options)) is None:
        return
    if checkpoint.config.architecture.mlp.has_experts:
        raise RequestError(
            f"{asked} looks at what all tokens do to a weight, and experts see only some of them.\nLeave it out: each "
            "weight is rounded to the nearest, in as many bits."
        )
    if not has_tokenizer(checkpoint.path):
        raise RequestError(
            f"{asked} needs text, and {checkpoint.path} holds no tokenizer.\nSave it next to the weights with "
            "tokenizer.save_pretrained(), or leave the option out."
        )


def _check_fp8(options: ExportOptions) -> None:
    """Check that weights can be floats of 8 bits.

    Raises:
        RequestError: The operators or the device have no such weights, or a block size was given.
    """
    if options.operators is Operators.ONNXRUNTIME:
        raise RequestError(
            "ONNX Runtime has no product with weights in fp8.\nGive --weights int8, or --operators standard for "
            "TensorRT."
        )
    if options.block_size is not None:
        raise RequestError(
            f"--block-size {options.block_size} is for integers: in fp8, all weights of an output share a scale.\n"
            "Leave it out."
        )
    if options.target is not None and NumberFormat.FLOAT8 not in TARGETS[options.target].dtypes:
        able = ", ".join(name for name, target in TARGETS.items() if NumberFormat.FLOAT8 in target.dtypes)
        raise RequestError(
            f"{options.target} has no units for fp8.\nGive --weights int4, or one of the targets that have them: "
            f"{able}."
        )


def _needs_text(options: ExportOptions) -> str | None:
    """Return the option that looks at text, or None."""
    if options.average_bits is not None:
        return f"--average-bits {options.average_bits:g}"
    return "--rounding gptq" if options.rounding is RoundingMethod.GPTQ else None


def _check_average(average_bits: float, options: ExportOptions) -> None:
    """Check that weights can have different bits.

    Raises:
        RequestError: The average is out of range, or the format has 8 bits.
    """
    asked = f"--average-bits {average_bits:g}"
    if options.weights is not WeightFormat.INT4:
        raise RequestError(
            f"{asked} gives some weights 8 bits, and --weights {options.weights} all.\nGive one of them."
        )
    if not FEW_BITS <= average_bits <= MANY_BITS:
        raise RequestError(f"{asked} is not an average of {FEW_BITS} and {MANY_BITS} bits.\nGive one between them.")
    if options.to is Format.TENSORRT:
        raise RequestError(
            f"{asked} gives some weights 8 bits, and TensorRT has no blocks of them.\nLeave it out, or give --to onnx."
        )


def _choose_block_size(checkpoint: Checkpoint, options: ExportOptions) -> int:
    """Return the default block size; for an engine half of it, if only that divides the weights."""
    assert options.weights is not None
    size = _BLOCK_SIZES[options.to]
    if options.to is not Format.TENSORRT:
        return size
    try:
        choose_formats(checkpoint.config, checkpoint.widths, Quantization(options.weights, size), Operators.STANDARD)
    except RequestError:
        return size // 2
    return size


def check_quantization(
    checkpoint: Checkpoint,
    quantization: Quantization | None,
    opset: Opset,
    operators: Operators = Operators.STANDARD,
) -> None:
    """Check that a graph can have quantized weights.

    Raises:
        RequestError: The opset has no operator for them, or blocks do not divide the weights.
    """
    if quantization is None:
        return
    if opset is Opset.OPSET_20 and operators is Operators.STANDARD and quantization.block_size is not None:
        raise RequestError(
            f"--weights {quantization.weights} needs opset 21 or later: the older DequantizeLinear has no blocks.\n"
            "Give --opset 23, or --operators onnxruntime."
        )
    choose_formats(checkpoint.config, checkpoint.widths, quantization, operators)
