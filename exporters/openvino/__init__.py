"""Models in OpenVINO's format, converted from ONNX graphs."""

from __future__ import annotations

from amp_export.exporters.openvino.exporting import OpenvinoExport, export
from amp_export.exporters.openvino.models import require_runtime
from amp_export.exporters.openvino.running import run

__all__ = ["OpenvinoExport", "export", "require_runtime", "run"]
