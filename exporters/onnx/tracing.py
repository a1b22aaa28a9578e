"""Exports any model that transformers can trace as ONNX graphs; `exporting` builds those of known decoders."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from amp_export.architectures import Kind
from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.older_versions import write_config
from amp_export.documents import decode_json
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.files import WEIGHTS
from amp_export.exporters.tracing.environment import check_traceable, complex_axes, fast_export, named_errors, quiet
from amp_export.exporters.tracing.kinds import model_kind, tracing_jobs
from amp_export.extras import require_extra
from amp_export.options import Dtype, Opset

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedModel

    from amp_export.exporters.tracing.jobs import Job


@dataclass(frozen=True)
class TracedExport:
    """A traced model.

    Attributes:
        folder: Folder of the export.
        kind: Kind of the model, which decides the graphs and their inputs.
        dtype: Dtype of its weights and activations.
        graphs: Files of the graphs, in order of execution.
        weights: File of the weights of all graphs.
        opset: Version of the ONNX operators.
        bytes_on_disk: Size of all files in the folder.
    """

    folder: Path
    kind: Kind
    dtype: Dtype
    graphs: tuple[Path, ...]
    weights: Path
    opset: Opset
    bytes_on_disk: int

    @property
    def graph(self) -> Path:
        """The graph that runs first; the only one unless the model is an encoder-decoder."""
        return self.graphs[0]


def trace(
    model: PreTrainedModel,
    folder: Path,
    *,
    dtype: Dtype,
    opset: Opset = Opset.OPSET_23,
    on_progress: Callable[[int, int], None] | None = None,
) -> TracedExport:
    """Export a model by tracing it with sample inputs.

    - A decoder becomes `model.onnx`, with the inputs and outputs of `graph.build_graph`, but without `position_ids` if
      the model does not take them.
    - An encoder, with or without a classification head, becomes `model.onnx`, with the model's inputs and the tensor
      fields of its output.
    - An encoder-decoder becomes `encoder_model.onnx`, `decoder_model.onnx` for the first call and
      `decoder_with_past_model.onnx` for all others, with names as in Optimum.

    Only the weights and `config.json` are written next to the graphs.

    Args:
        model: Model to export, in evaluation mode and with the dtype `dtype`; it is not modified.
        folder: Folder to create; an existing folder must be empty.
        dtype: Dtype of weights, activations, KV cache and outputs.
        opset: Version of the ONNX operators.
        on_progress: Called with the number of completed steps and their total, after each.

    Raises:
        MissingExtraError: onnxscript is not installed.
        UnsupportedModelError: The model cannot be traced.
        OutputError: The folder is not empty.
        ValueError: The model is in training mode, or has another dtype.
    """
    require_extra("onnxscript", "trace", needed_for="Tracing a model")
    check_traceable(model, folder, dtype)
    kind = model_kind(model)
    with named_errors(model), quiet():
        jobs = tracing_jobs(model, kind)
    traced = {}
    for number, job in enumerate(jobs, start=1):
        with named_errors(model), quiet():
            traced[folder / job.file] = trace_job(model, job, opset)
        if on_progress is not None:
            on_progress(number, len(jobs) + 1)
    return _write(model, folder, traced, kind=kind, dtype=dtype, opset=opset, on_progress=on_progress)


def trace_job(model: PreTrainedModel, job: Job, opset: Opset) -> ir.Model:
    """Trace one graph of a model; call it within `named_errors` and `quiet`.

    Raises:
        UnsupportedModelError: Tracing fixed the size of an axis.
    """
    import torch
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    from amp_export.exporters.onnx.traced_files import tidy
    from amp_export.exporters.tracing.jobs import Sample, map_samples

    def dynamic_axes(sample: Sample) -> dict[int, object]:
        return {axis: torch.export.Dim.AUTO for axis, name in enumerate(sample.axes) if name is not None}

    inputs = map_samples(lambda sample: sample.tensor, job.inputs)
    shapes = map_samples(dynamic_axes, job.inputs)
    settings = OnnxConfig(dynamic=True, dynamic_shapes=shapes, opset_version=opset.version)
    # its annotations only allow whole models, but it exports any module, as its own decomposition does
    module = cast("PreTrainedModel", job.module)
    with _fast_export():
        traced: ir.Model = OnnxExporter().export(module, inputs, settings).program
    if frozen := tidy(traced, job):
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced for inputs of any size: {'; '.join(frozen)}.\n"
            "Its forward must not convert input sizes to constants."
        )
    return traced


def _write(
    model: PreTrainedModel,
    folder: Path,
    traced: dict[Path, ir.Model],
    *,
    kind: Kind,
    dtype: Dtype,
    opset: Opset,
    on_progress: Callable[[int, int], None] | None,
) -> TracedExport:
    from amp_export.exporters.onnx.traced_files import write

    folder.mkdir(parents=True, exist_ok=True)
    write(traced, folder / WEIGHTS)
    write_config(folder, decode_json(model.config.to_json_string()))
    if on_progress is not None:
        on_progress(len(traced) + 1, len(traced) + 1)
    return TracedExport(
        folder=folder,
        kind=kind,
        dtype=dtype,
        graphs=tuple(traced),
        weights=folder / WEIGHTS,
        opset=opset,
        bytes_on_disk=directory_size(folder),
    )


@contextmanager
def _fast_export() -> Iterator[None]:
    """Apply `fast_export` and disable a rewrite of onnxscript: 30 layers took 135 s without both, 60 s with them."""
    import onnxscript.rewriter

    rules = getattr(onnxscript.rewriter, "_DEFAULT_REWRITE_RULES", ())
    # SlicesSplit, which merges two Slices into one Split, traverses the whole graph for each node
    onnxscript.rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in rules if rule.name != "SlicesSplit")
    try:
        with fast_export(), complex_axes(), _operators_parsed_once():
            yield
    finally:
        onnxscript.rewriter._DEFAULT_REWRITE_RULES = rules


@contextmanager
def _operators_parsed_once() -> Iterator[None]:
    """Let torch keep onnxscript's list of operators, for which it parses 500 functions, in 0.35 s for each graph.

    `ONNXRegistry.from_torchlib`, `torch/onnx/_internal/exporter/_registration.py`, torch 2.13, only reads the list.
    """
    registration: Any = sys.modules.get("torch.onnx._internal.exporter._registration")
    asked = getattr(registration, "onnxscript_apis", None)
    if asked is None:
        yield
        return
    registration.onnxscript_apis = SimpleNamespace(get_torchlib_ops=functools.partial(_parsed_operators, asked))
    try:
        yield
    finally:
        registration.onnxscript_apis = asked


@functools.cache
def _parsed_operators(apis: Any) -> Sequence[object]:
    return tuple(apis.get_torchlib_ops())
