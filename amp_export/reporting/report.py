"""The report: everything that was found out about an output, and what it says in rows and sentences.

The schema of report.json is described in `docs/output.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amp_export.errors import OutputError
from amp_export.outputs.manifest import Manifest, package_versions, read_document
from amp_export.outputs.staging import require_directory
from amp_export.reporting.checks import Against, Check
from amp_export.reporting.devices import device_verdict

SCHEMA = 4
JSON_NAME = "report.json"

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """The content of report.json; a section that was not measured is None.

    Attributes:
        schema: Version of this format.
        model: What was asked for.
        pruning: The plan's summary, parameters before and after, the rewrite and the reload proof.
        quality: `Quality`; of earlier versions the perplexities alone.
        parity: `ParityReport`.
        benchmarks: `BenchmarkReport` by the name of the runtime, the one that was measured first in front.
        devices: What devices found out, by their names; see `device_reports`.
        checks: What came of thresholds and of a baseline when these numbers were last held to them.
        packages: Versions of what computed it.
    """

    model: str
    pruning: Section | None = None
    quality: Section | None = None
    parity: Section | None = None
    benchmarks: Mapping[str, Section] | None = None
    devices: Mapping[str, Section] | None = None
    checks: tuple[Check, ...] | None = None
    packages: Mapping[str, str] | None = None
    schema: int = SCHEMA

    @classmethod
    def load(cls, output: Path) -> Report:
        """Reads the report of an output directory.

        Raises:
            OutputError: There is none, it is damaged, or it is from another version.
        """
        require_directory(output)
        if not (output / JSON_NAME).is_file():
            raise OutputError(f"{output} holds no {JSON_NAME}: nothing was measured there yet.")
        content = read_document(output / JSON_NAME, newest=SCHEMA)
        if content["schema"] != SCHEMA:
            raise OutputError(
                f"{output / JSON_NAME} has schema {content['schema']}, and this version reads {SCHEMA}.\n"
                "Measure again: amp-export validate, then amp-export benchmark."
            )
        try:
            report = cls(**content)
            return replace(report, checks=_read_checks(content.get("checks")))
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{output / JSON_NAME} is damaged: {error!r}") from error

    @classmethod
    def of(cls, manifest: Manifest) -> Report:
        """The report as far as the manifest knows it."""
        pruning = None
        if manifest.plan is not None:
            reload = manifest.verdicts.get("reload")
            pruning = {**manifest.plan, "rewrite": dict(manifest.rewrite or {}), "reload": reload}
        return cls(
            model=manifest.source.asked,
            pruning=pruning,
            quality=manifest.verdicts.get("quality"),
            packages=package_versions(),
        )

    @property
    def benchmark(self) -> Section | None:
        """The benchmark that leads, and that thresholds and baselines speak of: the first that was made."""
        return next(iter((self.benchmarks or {}).values()), None)

    @property
    def holds(self) -> bool:
        """Whether parity holds, as far as it was checked, here and on devices."""
        checked = [section["holds"] for section in (self.parity, *(self.devices or {}).values()) if section is not None]
        return all(checked)

    @property
    def checks_hold(self) -> bool:
        """Whether it keeps to the thresholds and the baseline that it was held to."""
        return all(check.holds for check in self.checks or ())

    def to_json(self) -> str:
        """The text of report.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


def _read_checks(content: Sequence[Section] | None) -> tuple[Check, ...] | None:
    if content is None:
        return None
    return tuple(Check(**{**check, "against": Against(check["against"])}) for check in content)


def record_verdicts(manifest: Manifest, report: Report) -> Manifest:
    """The manifest with what the report says of parity and gain."""
    if report.parity is not None:
        manifest = manifest.with_verdict("parity", {"holds": report.parity["holds"]})
    if report.benchmark is not None:
        gains = {phase: result["speedup"] for phase, result in report.benchmark["phases"].items()}
        manifest = manifest.with_verdict("gain", gains)
    if report.devices is not None:
        manifest = manifest.with_verdict(
            "devices", {name: device_verdict(each) for name, each in report.devices.items()}
        )
    return manifest
