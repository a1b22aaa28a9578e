"""Decoders as ONNX graphs, built directly from config and weights, and run on ONNX Runtime."""

from __future__ import annotations

from amp_export.exporters.onnx.exporting import OnnxExport, export
from amp_export.exporters.onnx.running import OnnxDecoder, Past, require_runtime, run

__all__ = ["OnnxDecoder", "OnnxExport", "Past", "export", "require_runtime", "run"]
