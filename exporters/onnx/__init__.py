"""Models as ONNX graphs: decoders built directly from config and weights, all others traced; and their runners."""

from __future__ import annotations

from amp_export.exporters.models.generation import generate
from amp_export.exporters.models.sampling import Sampling
from amp_export.exporters.onnx.descriptions import GraphDescription, describe_graph
from amp_export.exporters.onnx.exporting import OnnxExport, export
from amp_export.exporters.onnx.running import run
from amp_export.exporters.onnx.sessions import exported_graphs, require_runtime
from amp_export.exporters.onnx.support import can_build
from amp_export.exporters.onnx.tracing import TracedExport, trace

__all__ = [
    "GraphDescription",
    "OnnxExport",
    "Sampling",
    "TracedExport",
    "can_build",
    "describe_graph",
    "export",
    "exported_graphs",
    "generate",
    "require_runtime",
    "run",
    "trace",
]
