"""What a device found out: its report read, completed with what is computed here, and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amp_export.benchmarking.statistics import PhaseResult
from amp_export.errors import DeviceError, OutputError
from amp_export.outputs.manifest import read_document
from amp_export.reporting.benchmarks import SUBJECTS, noise_lines
from amp_export.reporting.wording import count_failed, holds_in_how_many, worst_error

SCHEMA = 1
"""The newest layout of device-report.json that is known."""

Section = Mapping[str, Any]


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


def device_verdict(section: Section) -> dict[str, Any]:
    """What an output's manifest says of a device."""
    phases = (section["benchmark"] or {"phases": {}})["phases"]
    return {"holds": section["holds"], "gain": {name: phase["speedup"] for name, phase in phases.items()}}


def device_lines(name: str, section: Section) -> Iterator[str]:
    """What was proved and measured on a device, one sentence a line."""
    model = section["facts"]["model"] or section["facts"]["processor"] or section["facts"]["system"]
    for subject, parity in section["parity"].items():
        verdict = holds_in_how_many(*count_failed(parity["cases"]))
        yield (
            f"On {name} ({model}, {section['runtime']}): parity of the {subject} graph {verdict}: off by up to "
            f"{worst_error(parity['cases']):.2g}, tolerated is {parity['tolerance']:.2g}."
        )
    if (benchmark := section["benchmark"]) is None:
        return
    power = section["power"]
    drawn = "its power is not told" if power is None else f"power from {power['source']}: {', '.join(power['rails'])}"
    yield (
        f"On {name}: medians of {benchmark['rounds']} rounds, interleaved {benchmark['interleaved']}; in brackets the "
        f"bootstrap 95 % interval; {drawn}."
    )
    yield from noise_lines(benchmark)
