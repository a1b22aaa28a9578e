"""Compare intermediate values of graphs and model, to find the first that differs.

Every value has its own tolerance, derived like that of logits from PyTorch in the graph's dtype and in a higher one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.errors import UnsupportedModelError
from amp_export.exporters.files import ENCODER
from amp_export.exporters.onnx.descriptions import returned_dtype
from amp_export.exporters.onnx.introspection.scopes import module_values, sample_names
from amp_export.exporters.onnx.introspection.taps import Tap, find_taps
from amp_export.options import Dtype
from amp_export.parity.explain.runs import choose_run
from amp_export.parity.explain.values import Recording, Taps, record_graphs, record_torch
from amp_export.parity.noise import draw_rounding
from amp_export.parity.quantized import QuantizedWeights
from amp_export.parity.reference import NOISE_FACTOR, REFERENCE, run_torch
from amp_export.parity.results import Explanation, Point

if TYPE_CHECKING:
    import onnx
    from transformers import PreTrainedModel

    from amp_export.parity.suites import AnyCase
    from amp_export.progress import Progress

FLOOR = 1e-6
"""Minimum tolerance as a share of a value's largest entry: values of table lookups have no noise."""


@dataclass(frozen=True)
class TapPlan:
    """Graphs, and their intermediate values that can be compared with a model's.

    Attributes:
        checkpoint: The exported checkpoint.
        files: The graphs, in the order in which they run.
        models: The graphs without weights, by file.
        taps: The values, by file.
        dtype: Dtype of the graphs' outputs.
    """

    checkpoint: Path
    files: tuple[Path, ...]
    models: Mapping[str, onnx.ModelProto]
    taps: Taps
    dtype: Dtype


def plan_taps(checkpoint: Path, files: Sequence[Path]) -> TapPlan:
    """Match intermediate values of graphs to modules of the model, without running anything or reading weights.

    Args:
        checkpoint: The exported checkpoint.
        files: The graphs, in the order in which they run, with their weights beside them.

    Raises:
        UnsupportedModelError: No value of a graph can be matched, or its outputs are not floating-point.
        ModelError: A graph is damaged.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from amp_export.checkpoints.loading import module_names
    from amp_export.errors import ModelError

    names = module_names(checkpoint)
    models, taps = {}, {}
    for file in files:
        try:
            model = onnx.load(file, load_external_data=False)
        except DecodeError as error:
            raise ModelError(f"{file} is not an ONNX graph: {error}\nExport it again.") from error
        models[file.name] = model
        taps[file.name] = tuple(_find_taps(model, file, names))
        if not taps[file.name]:
            raise UnsupportedModelError(_nothing_alike(file, model, names))
    return TapPlan(checkpoint, tuple(files), models, taps, _dtype(models[files[0].name]))


def _find_taps(model: onnx.ModelProto, file: Path, names: Sequence[str]) -> list[Tap]:
    taps = find_taps(model, names)
    if taps or file.name != ENCODER:
        return taps
    # Optimum exports the encoder on its own, so that module names are relative to it
    for encoder in (name for name in names if name.rpartition(".")[2] == "encoder"):
        within = [name.removeprefix(f"{encoder}.") for name in names if name.startswith(f"{encoder}.")]
        if taps := find_taps(model, within):
            return [replace(tap, module=f"{encoder}.{tap.module}") for tap in taps]
    return []


def explain(tap_plan: TapPlan, case: AnyCase, *, progress: Progress) -> Explanation:
    """Compare intermediate values of graphs with those of the model.

    Args:
        tap_plan: The graphs and the values to compare.
        case: The case to run, of the model's kind.
        progress: Shows progress.

    Raises:
        UnsupportedModelError: No value can be compared.
    """
    from amp_export.checkpoints.reading import open_checkpoint

    path, taps, dtype = tap_plan.checkpoint, tap_plan.taps, tap_plan.dtype
    checkpoint = open_checkpoint(path)
    run = choose_run(checkpoint, tap_plan.files, case, dtype)

    weights = QuantizedWeights.of(tap_plan.files[-1], tap_plan.models[tap_plan.files[-1].name])

    def look(model: PreTrainedModel) -> Recording:
        return record_torch(model, run, taps)

    with progress.step("Running the graph, with intermediate values"):
        found = record_graphs(run, tap_plan.files, taps)
    with progress.step(f"Running PyTorch in {REFERENCE[dtype]}, with intermediate values"):
        expected = run_torch(path, REFERENCE[dtype], look, weights=weights)
    with progress.step(f"Running PyTorch in {dtype}, with intermediate values"):
        drawn = run_torch(path, dtype.value, lambda model: list(draw_rounding(model, look)), weights=weights)
    points = tuple(_points(taps, found, expected, drawn, dtype))
    if not points:
        files = ", ".join(str(file) for file in tap_plan.files)
        raise UnsupportedModelError(
            f"The values within {files} that are named after modules have other sizes than what the modules return, so "
            "that they cannot be compared.\nLeave --explain out."
        )
    first = next((point for point in points if not point.holds), None)
    operators = _operators(tap_plan.models[first.graph], points, first) if first is not None else ()
    return Explanation(case.name, points, first, operators)


def _nothing_alike(file: Path, model: onnx.ModelProto, names: Sequence[str]) -> str:
    """Return the error message for a graph without module names of the model."""
    if scopes := list(module_values(model))[:3]:
        found = f"its nodes name {', '.join(scopes)}"
    elif nodes := sample_names(model.graph.node):
        found = f"its nodes have names such as {', '.join(nodes)}, and no metadata that names modules"
    else:
        found = "its nodes have no names, and no metadata that names modules"
    modules = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    return (
        f"No value within {file} is named after a module of the model, so that --explain has nothing to compare: "
        f"{found}; the model's modules are such as {', '.join(modules[:3])}.\n"
        "Leave --explain out, or give a graph of an exporter that keeps the modules' names: amp-export, Optimum, "
        "transformers or the onnxruntime-genai builder, before other tools optimize it."
    )


def _dtype(model: onnx.ModelProto) -> Dtype:
    found = returned_dtype(model)
    if found is None:
        raise UnsupportedModelError("The graph returns no floating-point numbers, so that --explain cannot hold them.")
    return found


def _points(
    taps: Taps, found: Recording, expected: Recording, drawn: Sequence[Recording], dtype: Dtype
) -> Iterator[Point]:
    for file, graph_taps in taps.items():
        for tap in graph_taps:
            values = [recording.get((file, tap.module), []) for recording in (found, expected, *drawn)]
            if not values[0] or len({len(calls) for calls in values}) > 1:
                continue
            aligned = [_align(graph, reference) for graph, reference in zip(*values[:2], strict=True)]
            calls = [call for call in aligned if call is not None]
            # a value of a different size is not the module's output
            if len(calls) < len(aligned):
                continue
            error = max(_largest(graph - reference) for graph, reference in calls)
            noise = max(
                _largest(rounded - reference) for _, reference, *every in zip(*values, strict=True) for rounded in every
            )
            scale = max(_largest(reference) for _, reference in calls)
            # a value without noise is still rounded once in the graph
            floor = scale * (FLOOR if dtype is Dtype.FLOAT32 else float(np.finfo(np.float16).eps))
            tolerance = NOISE_FACTOR * max(noise, floor)
            match = re.search(r"\.(\d+)(\.|$)", tap.module)
            layer = int(match[1]) if match is not None else None
            holds = bool(error <= tolerance)
            yield Point(file, tap.module, layer, tap.value, tap.operator, error, noise, tolerance, holds)


def _align(graph: Any, reference: Any) -> tuple[Any, Any] | None:
    """Return the entries that both have.

    A window's KV cache lacks the oldest keys, heads may share one axis, and a head may see the last token alone.

    Return None if the sizes do not match.
    """
    if graph.ndim == reference.ndim == 4 and graph.shape != reference.shape:
        kept = reference.shape[-1] if graph.shape[-1] != reference.shape[-1] else None
        graph = graph[..., -kept:] if kept is not None else graph[:, :, -reference.shape[2] :]
    elif reference.ndim == 3 and graph.size * reference.shape[1] == reference.size:
        reference = reference[:, -1:]
    return (graph.reshape(reference.shape), reference) if graph.size == reference.size else None


def _largest(difference: Any) -> float:
    return float(np.nan_to_num(abs(difference), nan=np.inf, posinf=np.inf).max()) if difference.size else 0.0


def _operators(model: onnx.ModelProto, points: Sequence[Point], first: Point) -> tuple[str, ...]:
    """Return the operators that compute the first differing value from values that agree."""
    agreeing = {point.value for point in points if point.holds and point.graph == first.graph}
    makers = {output: node for node in model.graph.node for output in node.output if output}
    pending, seen, operators = [first.value], set(), []
    while pending:
        value = pending.pop()
        if value in seen or value not in makers or (value in agreeing and value != first.value):
            continue
        seen.add(value)
        operators.append(makers[value].op_type)
        pending += makers[value].input
    return tuple(dict.fromkeys(operators))
