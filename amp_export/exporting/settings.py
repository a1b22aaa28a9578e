"""What is exported, every choice made: all that cannot be built is found out before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.errors import RequestError
from amp_export.exporters.limits import Limits, choose_limits
from amp_export.exporting.engines import EngineJob, EngineOptions, prepare_engine
from amp_export.options import Format, Opset, Precision, Via

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, every choice made.

    Attributes:
        format: What to.
        precision: The precision of the graph.
        opset: The version of its operators; None where it has none, as an ExecuTorch program.
        via: How it is made.
        job: The engine that is built from it, or None.
        limits: What an ExecuTorch program takes; None for all else.
    """

    format: Format
    precision: Precision
    opset: Opset | None
    via: Via
    job: EngineJob | None = None
    limits: Limits | None = None


def choose_settings(
    checkpoint: Checkpoint,
    to: Format,
    precision: Precision | None,
    opset: Opset | None,
    *,
    via: Via,
    engine: EngineOptions | None,
) -> ExportSettings:
    """Makes the choices that are left open, and finds out what cannot be built, before anything is written.

    Raises:
        RequestError: Something is said of what is not wanted.
        MissingExtraError: What converts is not installed.
        AmpExportError: See `engine_building.prepare_engine`.
    """
    if to is Format.TENSORRT:
        job = prepare_engine(engine or EngineOptions(), checkpoint.config)
        opset = opset or job.choose_opset(checkpoint.config)
        return ExportSettings(to, precision or Precision.FLOAT16, opset, Via.DIRECT, job)
    if to is Format.EXECUTORCH:
        limits = _choose_program(checkpoint, opset, via=via, engine=engine or EngineOptions())
        return ExportSettings(to, precision or Precision.FLOAT32, None, Via.TRACE, limits=limits)
    if engine not in (None, EngineOptions()):
        raise RequestError(
            "Target and runtime are an engine's; batch and context are an engine's or an ExecuTorch program's.\n"
            "Give --to tensorrt or --to executorch with them."
        )
    if to is Format.OPENVINO:
        from amp_export.exporters import openvino

        openvino.require_runtime()
    return ExportSettings(to, precision or Precision.FLOAT32, opset or Opset.OPSET_23, via)


def _choose_program(checkpoint: Checkpoint, opset: Opset | None, *, via: Via, engine: EngineOptions) -> Limits:
    """What an ExecuTorch program is to take.

    Raises:
        RequestError: Something is said of an engine or a graph, or the limits do not fit the model.
        MissingExtraError: ExecuTorch is not installed.
    """
    from amp_export.exporters import executorch

    if engine.target is not None or engine.runtime is not None:
        raise RequestError("Target and runtime are an engine's.\nGive --to tensorrt with them.")
    if via is Via.DIRECT or opset is not None:
        raise RequestError(
            "An ExecuTorch program is traced, and has no ONNX operators.\n"
            "Leave --via and --opset out, or give --to onnx."
        )
    executorch.require_runtime()
    return choose_limits(
        checkpoint.config.longest_text,
        max_batch=engine.max_batch,
        max_context=engine.max_context,
        default_context=executorch.DEFAULT_CONTEXT,
    )
