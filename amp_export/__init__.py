"""Prune a transformer with AMP, rewrite its config, export it, prove the export and measure the gain.

    from amp_export import prune, export, validate, benchmark

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from amp_export._version import __version__

if TYPE_CHECKING:
    from amp_export.api.benchmark import benchmark
    from amp_export.api.convert import ConvertOptions, convert
    from amp_export.api.export import export
    from amp_export.api.prune import prune
    from amp_export.api.validate import validate
    from amp_export.benchmarking.results import BenchmarkReport
    from amp_export.benchmarking.setup import Setup
    from amp_export.benchmarking.workloads import Sweep
    from amp_export.devices.bundle import BundleResult, bundle
    from amp_export.devices.remote import DeviceOptions, benchmark_on_device
    from amp_export.doctor.diagnose import Diagnosis, diagnose
    from amp_export.errors import AmpExportError
    from amp_export.exporting.run import ExportResult
    from amp_export.integrations.transformers import register
    from amp_export.options import (
        Allocation,
        DeviceRuntime,
        Format,
        HeadPolicy,
        PerLayer,
        Precision,
        Runtime,
        TargetName,
        Uniform,
        Via,
    )
    from amp_export.parity.results import ParityReport
    from amp_export.pruning.pipeline import PruneResult
    from amp_export.pruning.plan import LayerPlan, Plan
    from amp_export.pruning.settings import PlanSettings
    from amp_export.reporting.report import Report

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
    "BenchmarkReport": "api.benchmark",
    "BundleResult": "devices.bundle",
    "ConvertOptions": "api.convert",
    "DeviceOptions": "devices.remote",
    "DeviceRuntime": "options",
    "Diagnosis": "doctor.diagnose",
    "ExportResult": "api.export",
    "Format": "options",
    "HeadPolicy": "options",
    "LayerPlan": "pruning.plan",
    "ParityReport": "parity.results",
    "PerLayer": "options",
    "Plan": "pruning.plan",
    "PlanSettings": "pruning.candidates",
    "Precision": "exporters.dispatch",
    "PruneResult": "api.prune",
    "Report": "reporting.report",
    "Runtime": "options",
    "Setup": "benchmarking.runners",
    "Sweep": "benchmarking.workloads",
    "TargetName": "options",
    "Uniform": "options",
    "Via": "options",
    "benchmark": "api.benchmark",
    "benchmark_on_device": "devices.remote",
    "bundle": "devices.bundle",
    "convert": "api.convert",
    "diagnose": "doctor.diagnose",
    "export": "api.export",
    "prune": "api.prune",
    "register": "integrations.transformers",
    "validate": "api.validate",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
