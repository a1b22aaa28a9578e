"""Reads the report of a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from amp_export.benchmarking.device_results import DeviceReport
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.documents import check_schema, convert, parse_json, read_text
from amp_export.errors import DeviceError
from amp_export.options import Phase


@dataclass(frozen=True)
class _RawTiming:
    """Times of one model in one phase, as a device writes them."""

    samples: tuple[tuple[float, ...], ...]
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class _RawPhase:
    dense: _RawTiming
    pruned: _RawTiming


@dataclass(frozen=True)
class _RawBenchmark:
    phases: Mapping[Phase, _RawPhase]
    launches: int


@dataclass(frozen=True)
class _RawReport:
    """The fields of a device's report that are needed to complete it."""

    SCHEMA: ClassVar[int] = 1

    bundle: str
    parity: Mapping[str, Mapping[str, Any]]
    benchmark: _RawBenchmark | None = None


def read_device_report(file: Path, *, identity: str) -> DeviceReport:
    """Read a device's report, and add the speedups with their intervals.

    Args:
        file: The report.
        identity: The SHA-256 of the manifest of the bundle that was run.

    Raises:
        DeviceError: The report is damaged, newer than this version, or of another bundle.
    """
    source = f"The device's report {file.name}"
    content = parse_json(read_text(file, error=DeviceError), source=source, error=DeviceError)
    check_schema(content, source=source, newest=_RawReport.SCHEMA, error=DeviceError)
    if content.get("bundle") != identity:
        raise DeviceError("The device's report is of another bundle.\nRun the bundle again.")
    raw = convert(content, _RawReport, source=source, ignore_unknown=True, error=DeviceError)
    if set(raw.parity) != {"dense", "pruned"} or not all(parity.get("cases") for parity in raw.parity.values()):
        raise DeviceError(
            f"{source} lacks the parity of the dense or of the pruned graph, so it proves nothing.\nRun the "
            "bundle again."
        )
    content["holds"] = all(parity.get("holds") is True for parity in raw.parity.values())
    if raw.benchmark is not None:
        content["benchmark"]["phases"] = {
            name: _compare(source, name, phase, launches=raw.benchmark.launches)
            for name, phase in raw.benchmark.phases.items()
        }
    return convert(content, DeviceReport, source=source, error=DeviceError)


def _check_samples(place: str, samples: Sequence[Sequence[float]], launches: int) -> None:
    """Check that samples are times, as many in each round, and rounds as many in each launch.

    Raises:
        DeviceError: They are not.
    """
    problem = None
    if launches < 1 or not samples or len(samples) % launches:
        problem = f"{len(samples)} rounds do not divide into {launches} launches"
    elif len(sizes := sorted({len(row) for row in samples})) > 1 or sizes == [0]:
        problem = f"rounds have {' and '.join(map(str, sizes))} samples"
    elif wrong := [second for row in samples for second in row if not 0 < second < math.inf]:
        problem = f"{wrong[0]} is no time in seconds"
    if problem is not None:
        raise DeviceError(f"{place}: {problem}.\nRun the bundle again.")


def _compare(source: str, name: Phase, phase: _RawPhase, *, launches: int) -> PhaseResult:
    for graph, timing in (("dense", phase.dense), ("pruned", phase.pruned)):
        _check_samples(f"{source}: benchmark.phases.{name}.{graph}.samples", timing.samples, launches)
    result = PhaseResult.of(phase.dense.samples, phase.pruned.samples, launches=launches)
    return replace(
        result,
        dense=replace(result.dense, tokens_per_second=phase.dense.tokens_per_second),
        pruned=replace(result.pruned, tokens_per_second=phase.pruned.tokens_per_second),
    )
