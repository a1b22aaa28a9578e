"""Settings of an export, resolved and checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from amp_export.errors import RequestError
from amp_export.exporters.limits import Limits, choose_limits
from amp_export.exporters.onnx.layouts import check_layout
from amp_export.exporters.onnx.parts import PartsOf, check_parts
from amp_export.exporters.onnx.support import can_build
from amp_export.exporters.support import choose_via, require_exportable
from amp_export.exporting.engines import EngineJob, prepare_engine
from amp_export.exporting.gguf import choose_gguf
from amp_export.exporting.quantized import check_quantization, choose_quantization
from amp_export.exporting.static_cache import check_static_cache
from amp_export.options import Dtype, Format, Layout, Logits, Operators, Opset, RoundingMethod, Via
from amp_export.verb_options import ExportOptions

if TYPE_CHECKING:
    from pathlib import Path

    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.onnx.builder.weights import Rounding
    from amp_export.exporters.onnx.quantization import Quantization


@dataclass(frozen=True)
class ExportSettings:
    """Resolved settings of an export.

    Attributes:
        format: Format of the export.
        dtype: Dtype of the graph.
        opset: ONNX opset of the graph; None for an ExecuTorch program or a GGUF file.
        via: How the graph is made.
        job: The engine to build from it, or None.
        limits: Limits of an ExecuTorch program; None for other formats.
        operators: Operators of an ONNX graph.
        logits: Tokens whose logits a decoder's graph computes.
        layout: Names and places of the files of an ONNX graph.
        cache_length: Tokens that the KV cache of an ONNX graph has room for; None if it grows.
        quantization: Format of the weights of linear layers; None for the graph's dtype.
        average_bits: The largest average of the bits of quantized weights, of which some are to have 8; None if all
            have what the format says, or the weights with 8 are chosen already.
        method: How weights are to be rounded.
        rounding: How weights are rounded; None to the nearest.
        parts: The vision-language model whose parts are exported; None for the language model alone.
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
    layout: Layout = Layout.FLAT
    cache_length: int | None = None
    quantization: Quantization | None = None
    average_bits: float | None = None
    method: RoundingMethod = RoundingMethod.NEAREST
    rounding: Rounding | None = None
    parts: PartsOf | None = None
    given: Mapping[str, str] = field(default_factory=dict)


_RECORDED = (
    *("opset", "operators", "logits", "static_cache", "layout"),
    *("weights", "block_size", "average_bits", "rounding"),
)
"""Options that a manifest records if they are given; it has format, dtype and `via` of every export."""


def choose_settings(checkpoint: Checkpoint, options: ExportOptions, whole: Path | None = None) -> ExportSettings:
    """Resolve the settings of an export, and check that it is possible, before anything is written.

    Args:
        checkpoint: The checkpoint to export.
        options: The options.
        whole: The vision-language model whose language model the checkpoint is, if its parts are wanted: in ONNX, they
            are exported; other formats hold the language model alone.

    Raises:
        AmpExportError: See `_choose_settings`.
    """
    if options.static_cache is not None:
        check_static_cache(options.static_cache, options, checkpoint.config, in_parts=whole is not None)
    default = ExportOptions()
    values = {name: getattr(options, name) for name in _RECORDED}
    given = {name: f"{value}" for name, value in values.items() if value != getattr(default, name)}
    return replace(_choose_settings(checkpoint, options, whole), given=given)


def _choose_settings(checkpoint: Checkpoint, options: ExportOptions, whole: Path | None) -> ExportSettings:
    """Resolve the settings of an export.

    Raises:
        RequestError: An option does not apply to the format, or the limits do not fit the model.
        MissingExtraError: The package that converts to the format is not installed.
        AmpExportError: See `exporting.engines.prepare_engine`.
    """
    to = options.to
    if options.operators is not Operators.STANDARD and to is not Format.ONNX:
        raise RequestError(
            f"--operators {options.operators} is for graphs that ONNX Runtime runs, not for --to {to}.\nLeave it out."
        )
    if options.layout is not Layout.FLAT and to is not Format.ONNX:
        raise RequestError(
            f"--layout {options.layout} is for ONNX graphs, not for --to {to}.\nGive --to onnx, or leave it out."
        )
    if to is Format.GGUF:
        dtype, quantization = choose_gguf(checkpoint, options)
        return ExportSettings(to, dtype, None, Via.DIRECT, quantization=quantization)
    quantization = choose_quantization(checkpoint, options)
    if to is Format.TENSORRT:
        return _choose_engine(checkpoint, options, quantization)
    if to is Format.EXECUTORCH:
        limits = _choose_limits(checkpoint, options)
        return ExportSettings(to, options.dtype or Dtype.FLOAT32, None, Via.TRACE, limits=limits)
    return _choose_graph(checkpoint, options, whole, quantization)


def _choose_engine(checkpoint: Checkpoint, options: ExportOptions, quantization: Quantization | None) -> ExportSettings:
    """Resolve the settings of a TensorRT engine.

    Raises:
        AmpExportError: See `exporting.engines.prepare_engine`.
    """
    job = prepare_engine(options, checkpoint.config)
    opset = options.opset or job.choose_opset(checkpoint.config)
    check_quantization(checkpoint, quantization, opset)
    return ExportSettings(
        options.to,
        options.dtype or Dtype.FLOAT16,
        opset,
        Via.DIRECT,
        job,
        logits=options.logits,
        quantization=quantization,
        method=options.rounding,
    )


def _choose_graph(
    checkpoint: Checkpoint, options: ExportOptions, whole: Path | None, quantization: Quantization | None
) -> ExportSettings:
    """Resolve the settings of a graph for ONNX Runtime or OpenVINO.

    Raises:
        RequestError: An option does not apply to these, or not to graphs that are traced.
        MissingExtraError: OpenVINO is needed and not installed.
    """
    if (options.target, options.runtime, options.max_batch, options.max_context) != (None, None, 1, None):
        raise RequestError(
            "--target and --runtime apply to TensorRT only, --max-batch and --max-context to TensorRT and "
            "ExecuTorch.\nGive --to tensorrt or --to executorch with them."
        )
    via = choose_via(checkpoint.config, options.via)
    if via is not Via.DIRECT:
        _refuse_options_of_built(checkpoint, options, quantization)
    opset = options.opset or (Opset.OPSET_23 if options.static_cache is None else Opset.OPSET_24)
    check_quantization(checkpoint, quantization, opset, options.operators)
    dtype = options.dtype or Dtype.FLOAT32
    parts = _choose_parts(whole, checkpoint, options, via)
    check_layout(checkpoint.config, options.layout, dtype, quantization, parts)
    if options.to is Format.OPENVINO:
        from amp_export.exporters import openvino

        openvino.require_runtime()
    return ExportSettings(
        options.to,
        dtype,
        opset,
        via,
        operators=options.operators,
        logits=options.logits,
        layout=options.layout,
        cache_length=options.static_cache,
        quantization=quantization,
        average_bits=options.average_bits,
        method=options.rounding,
        parts=parts,
    )


def _refuse_options_of_built(checkpoint: Checkpoint, options: ExportOptions, quantization: Quantization | None) -> None:
    """Raise an error if an option is given that a traced graph does not have.

    Raises:
        RequestError: One is.
    """
    for option, is_given in (
        (f"--operators {options.operators}", options.operators is not Operators.STANDARD),
        (f"--logits {options.logits}", options.logits is not Logits.ALL),
        (f"--weights {options.weights}", quantization is not None),
        (f"--static-cache {options.static_cache}", options.static_cache is not None),
    ):
        if is_given:
            why = can_build(checkpoint.config) if options.via is not Via.TRACE else "--via trace is given."
            raise RequestError(
                f"{option} is for graphs that are built directly, and this one is traced: {why}\nLeave it out."
            )


def _choose_parts(whole: Path | None, checkpoint: Checkpoint, options: ExportOptions, via: Via) -> PartsOf | None:
    """Return the vision-language model whose parts are exported, which can be; None if there is none.

    Raises:
        AmpExportError: See `check_parts`.
    """
    if whole is None or options.to is not Format.ONNX:
        return None
    parts = PartsOf(whole)
    check_parts(parts, checkpoint.config, via, options.operators)
    return parts


def _choose_limits(checkpoint: Checkpoint, options: ExportOptions) -> Limits:
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
