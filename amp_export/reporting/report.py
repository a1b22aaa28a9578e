"""The report: all results for an output.

The schema of report.json is described in `docs/output.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

from amp_export.benchmarking.device_results import DeviceReport
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.documents import convert, read_json, to_json
from amp_export.errors import OutputError
from amp_export.evaluation.summaries import EvaluationSummary
from amp_export.outputs.manifest import Manifest, PlanSummary, RewriteRecord, package_versions
from amp_export.outputs.names import PRUNED
from amp_export.outputs.staging import require_directory
from amp_export.parity.results import ParityReport
from amp_export.pruning.compensation.results import Compensation
from amp_export.pruning.quality import Quality
from amp_export.pruning.reload_check import ReloadProof
from amp_export.recovery.results import Recovery
from amp_export.reporting.checks import Check
from amp_export.reporting.devices import device_verdict
from amp_export.reporting.evaluations import evaluation_verdict

JSON_NAME = "report.json"

Verdict = TypeVar("Verdict")
Section = TypeVar("Section", BenchmarkReport, DeviceReport, EvaluationSummary)


@dataclass(frozen=True)
class PruningSection(PlanSummary):
    """Results of pruning.

    Attributes:
        rewrite: Kind of rewrite of the pruned checkpoint, and its reason.
        reload: Proof that transformers loads it.
        compensation: How the weights that are kept were updated; None if they were not.
        recoveries: How the model was trained afterwards, in order of time.
    """

    rewrite: RewriteRecord | None = None
    reload: ReloadProof | None = None
    compensation: Compensation | None = None
    recoveries: tuple[Recovery, ...] = ()


@dataclass(frozen=True)
class Report:
    """The content of report.json; a section that was not measured is None.

    Attributes:
        schema: Version of this format.
        model: The requested model.
        pruning: Results of pruning.
        quality: Quality of the pruned model compared with the dense one.
        parity: Parity of the export with its checkpoint in PyTorch.
        benchmarks: Dense against pruned, by runtime; the one measured first comes first.
        devices: Results by device.
        evaluations: Accuracy, perplexity and repetition beside the dense model's, of the pruned checkpoint and of
            exports by format.
        checks: Results of the last check of these numbers against thresholds and a baseline.
        packages: Versions of the packages that computed it.
    """

    SCHEMA: ClassVar[int] = 5
    OLDEST_SCHEMA: ClassVar[int] = 4

    model: str
    pruning: PruningSection | None = None
    quality: Quality | None = None
    parity: ParityReport | None = None
    benchmarks: Mapping[str, BenchmarkReport] | None = None
    devices: Mapping[str, DeviceReport] | None = None
    evaluations: Mapping[str, EvaluationSummary] | None = None
    checks: tuple[Check, ...] | None = None
    packages: Mapping[str, str] | None = None
    schema: int = SCHEMA

    @classmethod
    def load(cls, output: Path) -> Report:
        """Read the report of an output directory, without results for files that the output no longer holds.

        Raises:
            OutputError: It does not exist, is damaged, or has another schema.
        """
        require_directory(output)
        if not (output / JSON_NAME).is_file():
            raise OutputError(f"{output} contains no {JSON_NAME}: nothing has been measured.")
        report = read_json(output / JSON_NAME, cls, newest=cls.SCHEMA)
        if report.schema < cls.OLDEST_SCHEMA:
            raise OutputError(
                f"{output / JSON_NAME} has schema {report.schema}, but this version reads schema {cls.OLDEST_SCHEMA} "
                f"and later.\nMeasure again: amp-export validate, then amp-export benchmark."
            )
        return replace(report, schema=cls.SCHEMA).bound_to(Manifest.load(output))

    @classmethod
    def of(cls, manifest: Manifest) -> Report:
        """Return a report with the results that the manifest records."""
        pruning = None
        if manifest.plan is not None:
            pruning = PruningSection(
                **vars(manifest.plan),
                rewrite=manifest.rewrite,
                reload=_verdict(manifest, "reload", ReloadProof),
                compensation=_verdict(manifest, "compensation", Compensation),
                recoveries=_verdict(manifest, "recoveries", tuple[Recovery, ...]) or (),
            )
        return cls(
            model=manifest.source.name,
            pruning=pruning,
            quality=_verdict(manifest, "quality", Quality),
            packages=package_versions(),
        )

    def bound_to(self, manifest: Manifest) -> Report:
        """Return a copy without results for files that a manifest does not describe."""
        benchmarks = _standing(self.benchmarks, manifest)
        bound = replace(
            self,
            parity=self.parity if self.parity is not None and manifest.stands(self.parity.judged) else None,
            benchmarks=benchmarks,
            devices=_standing(self.devices, manifest),
            evaluations=_standing(self.evaluations, manifest),
        )
        # gates were checked against all of the numbers
        numbers = [(each.parity, each.benchmarks, each.evaluations) for each in (bound, self)]
        return bound if numbers[0] == numbers[1] else replace(bound, checks=None)

    @property
    def benchmark(self) -> BenchmarkReport | None:
        """The primary benchmark, which thresholds and baselines refer to: the first that was measured."""
        return next(iter((self.benchmarks or {}).values()), None)

    @property
    def evaluation(self) -> EvaluationSummary | None:
        """The evaluation of the pruned checkpoint, or else the first of an export."""
        evaluations = self.evaluations or {}
        return evaluations.get(PRUNED) or next(iter(evaluations.values()), None)

    @property
    def holds(self) -> bool:
        """Whether parity holds wherever it was checked, here and on devices."""
        return all(section.holds for section in (self.parity, *(self.devices or {}).values()) if section is not None)

    @property
    def checks_hold(self) -> bool:
        """Whether the report meets the thresholds and the baseline that it was checked against."""
        return all(check.holds for check in self.checks or ())

    def to_json(self) -> str:
        """Return the text of report.json."""
        return to_json(self)


def _verdict(manifest: Manifest, name: str, kind: type[Verdict]) -> Verdict | None:
    verdict = manifest.verdicts.get(name)
    return None if verdict is None else convert(verdict, kind, source=f"The manifest's {name}")


def record_verdicts(manifest: Manifest, report: Report) -> Manifest:
    """Return the manifest with the report's verdicts on what is bound to files, and with no others on these."""
    parity, benchmark, devices = report.parity, report.benchmark, report.devices
    holds = None if parity is None else {"holds": parity.holds, "judged": parity.judged}
    speedups = None if benchmark is None else {phase: each.speedup for phase, each in benchmark.phases.items()}
    found = None if devices is None else {name: device_verdict(each) for name, each in devices.items()}
    evaluated = {part: evaluation_verdict(each) for part, each in (report.evaluations or {}).items()} or None
    verdicts = {"parity": holds, "speedup": speedups, "devices": found, "evaluations": evaluated}
    for name, verdict in verdicts.items():
        manifest = manifest.with_verdict(name, verdict)
    return manifest


def _standing(sections: Mapping[str, Section] | None, manifest: Manifest) -> Mapping[str, Section] | None:
    """Return the sections about files that a manifest describes; None if there are none."""
    return {name: each for name, each in (sections or {}).items() if manifest.stands(each.judged)} or None
