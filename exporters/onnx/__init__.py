"""Models as ONNX graphs: decoders built directly from config and weights, all others traced; and their runner."""

from __future__ import annotations

from amp_export.exporters.onnx.exporting import OnnxExport, export
from amp_export.exporters.onnx.running import OnnxDecoder, Past, require_runtime, run
from amp_export.exporters.onnx.support import can_build
from amp_export.exporters.onnx.tracing import ModelKind, TracedExport, trace

__all__ = [
    "ModelKind",
    "OnnxDecoder",
    "OnnxExport",
    "Past",
    "TracedExport",
    "can_build",
    "export",
    "require_runtime",
    "run",
    "trace",
]
