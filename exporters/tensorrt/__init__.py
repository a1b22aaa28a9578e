"""Models as TensorRT engines, and the scripts with which a device builds and runs its own from a bundle."""

from __future__ import annotations

from amp_export.exporters.limits import Limits
from amp_export.exporters.tensorrt.engines import EngineFacts
from amp_export.exporters.tensorrt.exporting import EngineSettings, export
from amp_export.exporters.tensorrt.flavors import load_flavor
from amp_export.exporters.tensorrt.profiles import decoder_profiles

__all__ = ["EngineFacts", "EngineSettings", "Limits", "decoder_profiles", "export", "load_flavor"]
