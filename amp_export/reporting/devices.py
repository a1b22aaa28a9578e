"""What a device found out: its report read, completed with what is computed here, and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from amp_export.reporting.benchmarks import noise_lines
from amp_export.reporting.wording import count_failed, holds_in_how_many, worst_error

Section = Mapping[str, Any]


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
