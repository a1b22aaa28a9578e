"""Export of a checkpoint into a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.source_files import copy_files
from amp_export.exporting.engines import EngineJob, build_into
from amp_export.exporting.notes import cache_notes, context_notes, genai_notes, operator_notes
from amp_export.exporting.settings import ExportSettings
from amp_export.options import Dtype, Format, Opset, Via
from amp_export.progress import Advance, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.onnx.exporting import GraphChoices


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        folder: The folder of the export.
        format: Its format.
        dtype: The dtype of weights and activations.
        via: How the graph was made, `direct` or `trace`.
        bytes_on_disk: Size of graph and weights, or of the engine.
        options: Other options that were given, by name.
    """

    folder: Path
    format: Format
    dtype: Dtype
    via: Via
    bytes_on_disk: int
    options: Mapping[str, str] = field(default_factory=dict)


def export_as(
    folder: Path, checkpoint: Checkpoint, settings: ExportSettings, *, progress: Progress, name: str = ""
) -> ExportResult:
    """Export a checkpoint into a staging folder: its graph, and the engine or converted model if requested.

    Args:
        folder: The staging folder.
        checkpoint: The checkpoint to export.
        settings: Settings of the export.
        progress: Shows progress.
        name: Name of the model in progress messages.
    """
    exported = replace(_export_as(folder, checkpoint, settings, progress=progress, name=name), options=settings.given)
    # of the model that was asked for, not also of the dense one that it is compared with
    if not name and settings.format is not Format.GGUF:
        for note in (*context_notes(checkpoint.config, exported.via), *operator_notes(settings.operators)):
            progress.note(note)
        if settings.format is Format.ONNX and settings.parts is None:
            for note in (*cache_notes(settings.cache_length), *genai_notes(checkpoint, exported.via)):
                progress.note(note)
    return exported


def _export_as(
    folder: Path, checkpoint: Checkpoint, settings: ExportSettings, *, progress: Progress, name: str
) -> ExportResult:
    if settings.format is Format.OPENVINO:
        folder.mkdir(parents=True, exist_ok=True)
        # the ONNX graph is only an intermediate step
        with tempfile.TemporaryDirectory(prefix=".graph-", dir=folder) as scratch:
            graph = _export_graph(Path(scratch), checkpoint, settings, progress=progress, name=name)
            return _convert_to_openvino(graph, folder, progress=progress)
    if settings.format is Format.EXECUTORCH:
        return _export_program(folder, checkpoint, settings, progress=progress, name=name)
    if settings.format is Format.GGUF:
        return _export_gguf(folder, checkpoint, settings, progress=progress, name=name)
    exported = _export_graph(folder, checkpoint, settings, progress=progress, name=name)
    if settings.job is None:
        return exported
    description = f"Building the engine of {name}" if name else "Building the engine"
    return build_from(exported, settings.job, progress=progress, description=description)


def _export_graph(
    folder: Path, checkpoint: Checkpoint, settings: ExportSettings, *, progress: Progress, name: str
) -> ExportResult:
    description = f"Exporting {name}" if name else "Exporting"
    return export_into(folder, checkpoint, settings, progress=progress, description=description)


def _convert_to_openvino(exported: ExportResult, folder: Path, *, progress: Progress) -> ExportResult:
    from amp_export.exporters import openvino

    made = folder / Format.OPENVINO
    shutil.rmtree(made, ignore_errors=True)
    with progress.step("Converting the graph for OpenVINO") as advance:
        converted = openvino.export(exported.folder, made, on_progress=advance)
    return replace(exported, folder=made, format=Format.OPENVINO, bytes_on_disk=converted.bytes_on_disk)


def _export_program(
    folder: Path, checkpoint: Checkpoint, settings: ExportSettings, *, progress: Progress, name: str
) -> ExportResult:
    from amp_export.exporters import executorch

    assert settings.limits is not None
    made, dtype, limits = folder / Format.EXECUTORCH, settings.dtype, settings.limits
    shutil.rmtree(made, ignore_errors=True)
    what = f"Exporting {name}" if name else "Exporting"
    with progress.step(f"{what} to executorch in {dtype}, up to half a minute per layer") as advance:
        _from_model(
            checkpoint,
            made,
            dtype,
            lambda model: executorch.export(model, made, dtype=dtype, limits=limits, on_progress=advance),
        )
    return ExportResult(made, settings.format, dtype, Via.TRACE, directory_size(made))


def _export_gguf(
    folder: Path, checkpoint: Checkpoint, settings: ExportSettings, *, progress: Progress, name: str
) -> ExportResult:
    from amp_export.exporters import gguf

    made = folder / Format.GGUF
    shutil.rmtree(made, ignore_errors=True)
    weights = settings.quantization.weights if settings.quantization is not None else None
    what = f"Exporting {name}" if name else "Exporting"
    with progress.step(f"{what} to gguf in {weights or settings.dtype}") as advance:
        written = gguf.export(checkpoint, made, dtype=settings.dtype, weights=weights, on_progress=advance)
    if not name:
        progress.note(f"The file is of llama.cpp's architecture {written.architecture}.")
        for note in written.notes:
            progress.note(note)
    return ExportResult(made, settings.format, settings.dtype, Via.DIRECT, written.bytes_on_disk)


def build_from(
    exported: ExportResult, job: EngineJob, *, progress: Progress, description: str = "Building the engine"
) -> ExportResult:
    """Build an engine beside its graph in a staging folder."""
    folder = exported.folder.parent
    shutil.rmtree(folder / Format.TENSORRT, ignore_errors=True)
    facts = build_into(folder, job, progress=progress, description=description)
    return replace(exported, folder=folder / Format.TENSORRT, format=Format.TENSORRT, bytes_on_disk=facts.engine_bytes)


def export_into(
    folder: Path,
    checkpoint: Checkpoint,
    settings: ExportSettings,
    *,
    progress: Progress,
    description: str = "Exporting",
) -> ExportResult:
    """Export a checkpoint to ONNX into a staging folder.

    Args:
        folder: The staging folder.
        checkpoint: The checkpoint to export.
        settings: Settings of the graph; an engine or a converted model is not made of it.
        progress: Shows progress.
        description: What the progress says.

    Raises:
        UnsupportedModelError: The requested exporter does not support the model.
    """
    from amp_export.exporters import onnx
    from amp_export.exporters.onnx.layouts import arrange
    from amp_export.exporters.onnx.parts import export_parts

    made, dtype, opset, via = folder / Format.ONNX, settings.dtype, settings.opset, settings.via
    assert opset is not None
    # the files of an extended output are hard links to the earlier one, so remove them instead of overwriting
    shutil.rmtree(made, ignore_errors=True)
    if via is Via.AUTO and settings.parts is None:
        via = Via.DIRECT if onnx.can_build(checkpoint.config) is None else Via.TRACE
    stored = "" if settings.quantization is None else f", weights in {settings.quantization.weights}"
    with progress.step(f"{description} to {Format.ONNX} in {dtype}{stored}") as advance:
        if settings.parts is not None:
            via = Via.DIRECT
            export_parts(checkpoint, made, settings.parts, _graph_choices(settings, opset), on_progress=advance)
        elif via is Via.DIRECT:
            onnx.export(
                checkpoint,
                made,
                dtype=dtype,
                opset=opset,
                operators=settings.operators,
                logits=settings.logits,
                quantization=settings.quantization,
                rounding=settings.rounding,
                cache_length=settings.cache_length,
                on_progress=advance,
            )
        else:
            _trace(checkpoint, made, dtype, opset, advance)
    arrange(made, settings.layout, dtype, settings.quantization, in_parts=settings.parts is not None)
    return ExportResult(made, Format.ONNX, dtype, via, directory_size(made))


def _graph_choices(settings: ExportSettings, opset: Opset) -> GraphChoices:
    from amp_export.exporters.onnx.exporting import GraphChoices

    return GraphChoices(
        settings.dtype, opset, settings.operators, settings.logits, settings.quantization, settings.rounding
    )


def _trace(checkpoint: Checkpoint, folder: Path, dtype: Dtype, opset: Opset, advance: Advance) -> None:
    from amp_export.exporters.onnx import tracing

    def work(model: PreTrainedModel) -> None:
        tracing.trace(model, folder, dtype=dtype, opset=opset, on_progress=advance)

    _from_model(checkpoint, folder, dtype, work)


def _from_model(checkpoint: Checkpoint, folder: Path, dtype: Dtype, work: Callable[[PreTrainedModel], object]) -> None:
    """Run an export that needs the loaded model, and copy the checkpoint's companions beside its result."""
    import torch

    from amp_export.checkpoints.loading import load_model
    from amp_export.checkpoints.older_versions import name_tokenizer_class

    work(load_model(checkpoint.path, dtype=getattr(torch, dtype.value)))
    copy_files(checkpoint.companions(), folder, base=checkpoint.path)
    name_tokenizer_class(folder)
