"""Decoders as ONNX graphs, built directly from config and weights, and run on ONNX Runtime."""

from __future__ import annotations

from amp_export.exporters.onnx.exporting import OnnxExport, export
from amp_export.exporters.onnx.running import OnnxDecoder, Past, require_runtime, run
from amp_export.exporters.onnx.support import can_build

__all__ = ["OnnxDecoder", "OnnxExport", "Past", "can_build", "export", "require_runtime", "run"]
