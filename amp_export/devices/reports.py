"""Read the report of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amp_export.benchmarking.statistics import PhaseResult
from amp_export.errors import DeviceError, OutputError
from amp_export.outputs.manifest import read_document
from amp_export.reporting.benchmarks import SUBJECTS
from amp_export.reporting.devices import Section

SCHEMA = 1
"""The newest layout of device-report.json that is known."""


def read_device_report(file: Path, *, identity: str) -> dict[str, Any]:
    """Reads a device's report, and adds the speed-ups with their intervals.

    Args:
        file: The report.
        identity: The SHA-256 of the manifest of the bundle that was run.

    Raises:
        DeviceError: It is damaged, newer than this version, or of another bundle.
    """
    try:
        content = read_document(file, newest=SCHEMA)
        if content["bundle"] != identity:
            raise DeviceError("The device's report is of another bundle.\nRun it again.")
        content["holds"] = all(parity["holds"] for parity in content["parity"].values())
        benchmark = content["benchmark"]
        if benchmark is not None:
            benchmark["phases"] = {
                name: _compare(phase, launches=benchmark["launches"], seed=benchmark["seed"])
                for name, phase in benchmark["phases"].items()
            }
    except OutputError as error:
        raise DeviceError(f"The device's report cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DeviceError(f"The device's report is damaged: {error!r}\nRun it again.") from error
    return content


def _compare(phase: Section, *, launches: int, seed: int) -> dict[str, Any]:
    result = PhaseResult.of(phase["dense"]["samples"], phase["pruned"]["samples"], launches=launches, seed=seed)
    return {
        **phase,
        **{subject: {**phase[subject], "variation": getattr(result, subject).variation} for subject in SUBJECTS},
        "speedup": result.speedup,
        "interval": list(result.interval),
        "conclusion": result.conclusion.value,
    }
