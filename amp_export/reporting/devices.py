"""Sentences about a device's report, and its verdict for the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amp_export.benchmarking.device_results import DeviceReport
from amp_export.reporting.benchmarks import noise_lines
from amp_export.reporting.wording import count_failed, holds_in_how_many, worst_error


def device_verdict(report: DeviceReport) -> dict[str, Any]:
    """Return the verdict on a device for an output's manifest."""
    phases = report.benchmark.phases if report.benchmark is not None else {}
    return {"holds": report.holds, "speedup": {name: phase.speedup for name, phase in phases.items()}}


def device_lines(name: str, report: DeviceReport) -> Iterator[str]:
    """Yield the results of parity and benchmark on a device, one sentence per line."""
    for subject, parity in report.parity.items():
        verdict = holds_in_how_many(*count_failed(parity.cases))
        yield (
            f"On {name} ({report.facts.name}, {report.runtime}): parity of the {subject} graph {verdict}: largest "
            f"error {worst_error(parity.cases):.2g}, tolerance {parity.tolerance:.2g}."
        )
    if (benchmark := report.benchmark) is None:
        return
    power = report.power
    drawn = "its power is unknown" if power is None else f"power from {power.source}: {', '.join(power.rails)}"
    yield (
        f"On {name}: medians of {benchmark.rounds} rounds, interleaved {benchmark.interleaved}; in brackets the "
        f"95 % interval over {benchmark.launches} launches; {drawn}."
    )
    yield from noise_lines(benchmark)
