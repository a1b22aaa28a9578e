"""Settings of an export, resolved and checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from amp_export.checkpoints.loading import has_tokenizer
from amp_export.errors import RequestError
from amp_export.exporters.limits import Limits, choose_limits
from amp_export.exporters.onnx.builder.formats import choose_formats
from amp_export.exporters.onnx.quantization import (
    DEFAULT_BLOCK_SIZE,
    FEW_BITS,
    MANY_BITS,
    Quantization,
)
from amp_export.exporters.onnx.support import can_build
from amp_export.exporters.support import choose_via, require_exportable
from amp_export.exporting.engines import EngineJob, prepare_engine
from amp_export.hardware.targets import TARGETS
from amp_export.options import Dtype, Format, Logits, Operators, Opset, RoundingMethod, Via, WeightFormat
from amp_export.verb_options import ExportOptions, PruneOptions

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.onnx.builder.weights import Rounding


_BLOCK_SIZES = {Format.ONNX: DEFAULT_BLOCK_SIZE, Format.TENSORRT: 128}
"""Default block sizes. TensorRT documents 64 and 128 for int4 ("Working with Quantized Types"); the larger blocks have
fewer scales to read."""


@dataclass(frozen=True)
class ExportSettings:
    """Resolved settings of an export.

    Attributes:
        format: Format of the export.
        dtype: Dtype of the graph.
        opset: ONNX opset of the graph; None for an ExecuTorch program.
        via: How the graph is made.
        job: The engine to build from it, or None.
        limits: Limits of an ExecuTorch program; None for other formats.
        operators: Operators of an ONNX graph.
        logits: Tokens whose logits a decoder's graph computes.
        quantization: Format of the weights of linear layers; None for the graph's dtype.
        average_bits: The largest average of the bits of quantized weights, of which some are to have 8; None if all
            have what the format says, or the weights with 8 are chosen already.
        method: How weights are to be rounded.
        rounding: How weights are rounded; None to the nearest.
        given: Options of the graph that were given, for the manifest.
    """

    format: Format
    dtype: Dtype
    opset: Opset | None
    via: Via
    job: EngineJob | None = None
    limits: Limits | None = None
    operators: Operators = Operators.STANDARD
    logits: Logits = Logits.ALL
    quantization: Quantization | None = None
    average_bits: float | None = None
    method: RoundingMethod = RoundingMethod.NEAREST
    rounding: Rounding | None = None
    given: Mapping[str, str] = field(default_factory=dict)


_RECORDED = ("opset", "operators", "logits", "weights", "block_size", "average_bits", "rounding")
"""Options that a manifest records if they are given; it has format, dtype and `via` of every export."""


def choose_settings(checkpoint: Checkpoint, options: ExportOptions) -> ExportSettings:
    """Resolve the settings of an export, and check that it is possible, before anything is written.

    Raises:
        AmpExportError: See `_choose_settings`.
    """
    default = ExportOptions()
    values = {name: getattr(options, name) for name in _RECORDED}
    given = {name: f"{value}" for name, value in values.items() if value != getattr(default, name)}
    return replace(_choose_settings(checkpoint, options), given=given)


def _choose_settings(checkpoint: Checkpoint, options: ExportOptions) -> ExportSettings:
    """Resolve the settings of an export.

    Raises:
        RequestError: An option does not apply to the format, or the limits do not fit the model.
        MissingExtraError: The package that converts to the format is not installed.
        AmpExportError: See `exporting.engines.prepare_engine`.
    """
    to, dtype = options.to, options.dtype
    if options.operators is not Operators.STANDARD and to is not Format.ONNX:
        raise RequestError(
            f"--operators {options.operators} is for graphs that ONNX Runtime runs, not for --to {to}.\nLeave it out."
        )
    quantization = _choose_quantization(checkpoint, options)
    if to is Format.TENSORRT:
        job = prepare_engine(options, checkpoint.config)
        opset = options.opset or job.choose_opset(checkpoint.config)
        _check_quantization(checkpoint, quantization, opset)
        return ExportSettings(
            to,
            dtype or Dtype.FLOAT16,
            opset,
            Via.DIRECT,
            job,
            logits=options.logits,
            quantization=quantization,
            method=options.rounding,
        )
    if to is Format.EXECUTORCH:
        limits = _choose_program(checkpoint, options)
        return ExportSettings(to, dtype or Dtype.FLOAT32, None, Via.TRACE, limits=limits)
    if (options.target, options.runtime, options.max_batch, options.max_context) != (None, None, 1, None):
        raise RequestError(
            "--target and --runtime apply to TensorRT only, --max-batch and --max-context to TensorRT and "
            "ExecuTorch.\nGive --to tensorrt or --to executorch with them."
        )
    via = choose_via(checkpoint.config, options.via)
    for option, is_given in (
        (f"--operators {options.operators}", options.operators is not Operators.STANDARD),
        (f"--logits {options.logits}", options.logits is not Logits.ALL),
        (f"--weights {options.weights}", quantization is not None),
    ):
        if is_given and via is not Via.DIRECT:
            why = can_build(checkpoint.config) if options.via is not Via.TRACE else "--via trace is given."
            raise RequestError(
                f"{option} is for graphs that are built directly, and this one is traced: {why}\nLeave it out."
            )
    opset = options.opset or Opset.OPSET_23
    _check_quantization(checkpoint, quantization, opset, options.operators)
    if to is Format.OPENVINO:
        from amp_export.exporters import openvino

        openvino.require_runtime()
    return ExportSettings(
        to,
        dtype or Dtype.FLOAT32,
        opset,
        via,
        operators=options.operators,
        logits=options.logits,
        quantization=quantization,
        average_bits=options.average_bits,
        method=options.rounding,
    )


def fit_blocks(prune: PruneOptions, export: ExportOptions) -> PruneOptions:
    """Return options of `prune` with which every layer keeps whole blocks of neurons, if weights are quantized.

    Raises:
        RequestError: The multiple that was asked for leaves parts of blocks.
    """
    if export.weights is None or prune.plan is not None or export.to not in _BLOCK_SIZES:
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


def _choose_quantization(checkpoint: Checkpoint, options: ExportOptions) -> Quantization | None:
    """Return the format of weights that was asked for.

    Raises:
        RequestError: It does not apply to the export format, or only a block size was given.
    """
    if options.weights is None:
        blocks = None if options.block_size is None else f"--block-size {options.block_size}"
        if asked := blocks or _needs_text(options):
            raise RequestError(f"{asked} is for quantized weights.\nGive --weights int4 with it.")
        return None
    if options.to not in _BLOCK_SIZES:
        raise RequestError(
            f"--weights {options.weights} is for --to onnx and --to tensorrt, not for --to {options.to}.\nLeave it "
            "out, or export to one of these."
        )
    if options.to is Format.TENSORRT and options.weights is not WeightFormat.INT4:
        raise RequestError(
            f"TensorRT has no blocks of {options.weights}: of weights alone, it takes int4.\nGive --weights int4, or "
            "--to onnx."
        )
    if options.average_bits is not None:
        _check_average(options.average_bits, options)
    if options.rounding is RoundingMethod.GPTQ and options.weights is not WeightFormat.INT4:
        raise RequestError(
            f"--rounding gptq makes up for errors of 4 bits; those of {options.weights} are small.\nLeave it out, or "
            "give --weights int4."
        )
    if (asked := _needs_text(options)) and not has_tokenizer(checkpoint.path):
        raise RequestError(
            f"{asked} needs text, and {checkpoint.path} holds no tokenizer.\nSave it next to the weights with "
            "tokenizer.save_pretrained(), or leave the option out."
        )
    return Quantization(options.weights, options.block_size or _choose_block_size(checkpoint, options))


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


def _check_quantization(
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
    if opset is Opset.OPSET_20 and operators is Operators.STANDARD:
        raise RequestError(
            f"--weights {quantization.weights} needs opset 21 or later: the older DequantizeLinear has no blocks.\n"
            "Give --opset 23, or --operators onnxruntime."
        )
    choose_formats(checkpoint.config, checkpoint.widths, quantization, operators)


def _choose_program(checkpoint: Checkpoint, options: ExportOptions) -> Limits:
    """Return the limits of an ExecuTorch program.

    Raises:
        RequestError: An option applies only to engines or ONNX graphs, or the limits do not fit the model.
        MissingExtraError: ExecuTorch is not installed.
    """
    from amp_export.exporters import executorch

    if options.target is not None or options.runtime is not None:
        raise RequestError("--target and --runtime apply to TensorRT only.\nGive --to tensorrt with them.")
    if options.via is Via.DIRECT or options.opset is not None or options.logits is not Logits.ALL:
        raise RequestError(
            "ExecuTorch programs are always traced and have no ONNX operators.\nLeave --via, --opset and --logits "
            "out, or give --to onnx."
        )
    require_exportable(checkpoint.config, Format.EXECUTORCH)
    executorch.require_runtime()
    return choose_limits(
        checkpoint.config.longest_text,
        max_batch=options.max_batch,
        max_context=options.max_context,
        default_context=executorch.DEFAULT_CONTEXT,
    )
