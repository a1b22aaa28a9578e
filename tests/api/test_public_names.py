"""What `import amp_export` gives."""

from __future__ import annotations

import enum
import typing

import pytest

import amp_export
from amp_export import verb_options


def test_the_public_names_are_these() -> None:
    assert sorted(amp_export.__all__) == [
        "Allocation",
        "AmpExportError",
        "BenchmarkDevice",
        "BenchmarkOptions",
        "BenchmarkReport",
        "BundleOptions",
        "BundleResult",
        "CompareOptions",
        "ConvertOptions",
        "CriterionName",
        "DeviceOptions",
        "DeviceRuntime",
        "Diagnosis",
        "DoctorOptions",
        "DraftMeasurement",
        "DraftOptions",
        "Drafted",
        "Dtype",
        "EngineRuntime",
        "EvaluateOptions",
        "Evaluation",
        "ExportOptions",
        "ExportResult",
        "Format",
        "GenerateOptions",
        "Generation",
        "HeadPolicy",
        "InspectOptions",
        "Inspection",
        "LayerPlan",
        "Layout",
        "Logits",
        "Operators",
        "Opset",
        "ParityReport",
        "PerLayer",
        "Plan",
        "PlanChoices",
        "Point",
        "PointResult",
        "PointTable",
        "Provider",
        "PruneOptions",
        "PruneResult",
        "RecoverOptions",
        "Recovered",
        "RecoveryMethod",
        "Report",
        "RoundingMethod",
        "Runtime",
        "Setup",
        "Sweep",
        "SweepOptions",
        "TargetName",
        "Uniform",
        "ValidateOptions",
        "Via",
        "WeightFormat",
        "__version__",
        "benchmark",
        "benchmark_on_device",
        "bundle",
        "compare",
        "convert",
        "diagnose",
        "draft",
        "evaluate",
        "export",
        "generate",
        "inspect",
        "prune",
        "recover",
        "register",
        "sweep",
        "validate",
    ]
    for name in amp_export.__all__:
        assert getattr(amp_export, name) is not None
    with pytest.raises(AttributeError, match="attribute absent"):
        _ = amp_export.absent


def test_the_choices_of_every_option_are_public() -> None:
    kinds = [typing.get_type_hints(getattr(verb_options, name)) for name in verb_options.__all__]
    of_options = [kind for hints in kinds for hint in hints.values() for kind in (hint, *typing.get_args(hint))]
    chosen = {kind.__name__ for kind in of_options if isinstance(kind, enum.EnumType)}
    assert {"Format", "TargetName", "CriterionName"} < chosen <= set(amp_export.__all__)
