"""Prune a transformer with AMP, rewrite its config, export it, prove the export and measure the gain.

    from amp_export import prune, export, validate, benchmark

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amp_export.benchmarking import BenchmarkReport, benchmark
    from amp_export.budgets import PlanSettings
    from amp_export.converting import ConvertOptions, convert
    from amp_export.doctoring import Diagnosis, diagnose
    from amp_export.errors import AmpExportError
    from amp_export.exporters import Precision
    from amp_export.exporting import ExportResult, export
    from amp_export.loading import register
    from amp_export.options import Allocation, Format, HeadPolicy, PerLayer, TargetName, Uniform
    from amp_export.plans import LayerPlan, Plan
    from amp_export.pruning import PruneResult, prune
    from amp_export.reporting import Report
    from amp_export.validation import ParityReport, validate

__version__ = "0.1.0"

__all__ = [
    "Allocation",
    "AmpExportError",
    "BenchmarkReport",
    "ConvertOptions",
    "Diagnosis",
    "ExportResult",
    "Format",
    "HeadPolicy",
    "LayerPlan",
    "ParityReport",
    "PerLayer",
    "Plan",
    "PlanSettings",
    "Precision",
    "PruneResult",
    "Report",
    "TargetName",
    "Uniform",
    "__version__",
    "benchmark",
    "convert",
    "diagnose",
    "export",
    "prune",
    "register",
    "validate",
]

_HOMES = {
    "Allocation": "options",
    "AmpExportError": "errors",
    "BenchmarkReport": "benchmarking",
    "ConvertOptions": "converting",
    "Diagnosis": "doctoring",
    "ExportResult": "exporting",
    "Format": "options",
    "HeadPolicy": "options",
    "LayerPlan": "plans",
    "ParityReport": "validation",
    "PerLayer": "options",
    "Plan": "plans",
    "PlanSettings": "budgets",
    "Precision": "exporters",
    "PruneResult": "pruning",
    "Report": "reporting",
    "TargetName": "options",
    "Uniform": "options",
    "benchmark": "benchmarking",
    "convert": "converting",
    "diagnose": "doctoring",
    "export": "exporting",
    "prune": "pruning",
    "register": "loading",
    "validate": "validation",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
