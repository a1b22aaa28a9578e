"""Models as TensorRT engines, and the bundles from which a device builds its own."""

from __future__ import annotations

from amp_export.exporters.limits import Limits
from amp_export.exporters.tensorrt.engines import EngineFacts
from amp_export.exporters.tensorrt.exporting import EngineSettings, export
from amp_export.exporters.tensorrt.flavors import load_flavor
from amp_export.exporters.tensorrt.profiles import decoder_profiles

__all__ = ["EngineFacts", "EngineSettings", "Limits", "decoder_profiles", "export", "load_flavor"]
