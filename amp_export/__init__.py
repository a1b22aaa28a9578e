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
    from amp_export.bundling import BundleResult, bundle
    from amp_export.converting import ConvertOptions, convert
    from amp_export.devices import DeviceOptions, benchmark_on_device
    from amp_export.doctoring import Diagnosis, diagnose
    from amp_export.errors import AmpExportError
    from amp_export.exporters import Precision
    from amp_export.exporting import ExportResult, export
    from amp_export.loading import register
    from amp_export.options import (
        Allocation,
        DeviceRuntime,
        Format,
        HeadPolicy,
        PerLayer,
        Runtime,
        TargetName,
        Uniform,
        Via,
    )
    from amp_export.parity_results import ParityReport
    from amp_export.plans import LayerPlan, Plan
    from amp_export.pruning import PruneResult, prune
    from amp_export.reporting import Report
    from amp_export.runtimes import Setup
    from amp_export.validation import validate
    from amp_export.workloads import Sweep

__version__ = "0.1.0"

__all__ = [
    "Allocation",
    "AmpExportError",
    "BenchmarkReport",
    "BundleResult",
    "ConvertOptions",
    "DeviceOptions",
    "DeviceRuntime",
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
    "Runtime",
    "Setup",
    "Sweep",
    "TargetName",
    "Uniform",
    "Via",
    "__version__",
    "benchmark",
    "benchmark_on_device",
    "bundle",
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
    "BundleResult": "bundling",
    "ConvertOptions": "converting",
    "DeviceOptions": "devices",
    "DeviceRuntime": "options",
    "Diagnosis": "doctoring",
    "ExportResult": "exporting",
    "Format": "options",
    "HeadPolicy": "options",
    "LayerPlan": "plans",
    "ParityReport": "parity_results",
    "PerLayer": "options",
    "Plan": "plans",
    "PlanSettings": "budgets",
    "Precision": "exporters",
    "PruneResult": "pruning",
    "Report": "reporting",
    "Runtime": "options",
    "Setup": "runtimes",
    "Sweep": "workloads",
    "TargetName": "options",
    "Uniform": "options",
    "Via": "options",
    "benchmark": "benchmarking",
    "benchmark_on_device": "devices",
    "bundle": "bundling",
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
