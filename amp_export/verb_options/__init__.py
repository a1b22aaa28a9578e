"""Options of each command, one frozen dataclass per command; the command line uses the same names."""

from __future__ import annotations

from amp_export.verb_options.combined import CompareOptions, ConvertOptions, SweepOptions
from amp_export.verb_options.exporting import BundleOptions, DraftOptions, ExportOptions
from amp_export.verb_options.measuring import (
    BenchmarkOptions,
    DeviceOptions,
    EvaluateOptions,
    GenerateOptions,
    ValidateOptions,
)
from amp_export.verb_options.pruning import DoctorOptions, InspectOptions, PlanChoices, PruneOptions, RecoverOptions

__all__ = [
    "BenchmarkOptions",
    "BundleOptions",
    "CompareOptions",
    "ConvertOptions",
    "DeviceOptions",
    "DoctorOptions",
    "DraftOptions",
    "EvaluateOptions",
    "ExportOptions",
    "GenerateOptions",
    "InspectOptions",
    "PlanChoices",
    "PruneOptions",
    "RecoverOptions",
    "SweepOptions",
    "ValidateOptions",
]
