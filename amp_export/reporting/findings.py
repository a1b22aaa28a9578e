"""Findings of a report: parity, quality, speedup and removed parameters, each as a sentence with its number."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amp_export.benchmarking.device_results import DeviceReport
from amp_export.benchmarking.statistics import Conclusion
from amp_export.parity.extremes import largest
from amp_export.parity.results import ParityReport
from amp_export.pruning.quality import Quality
from amp_export.reporting.checks import Against, Check
from amp_export.reporting.report import PruningSection, Report
from amp_export.reporting.wording import (
    PARITY_NOT_CHECKED,
    AnyBenchmark,
    claimed_speedup,
    count_failed,
    in_how_many,
    phase_label,
    worst_error,
)


class Standing(enum.StrEnum):
    """Status of a finding."""

    HOLDS = "holds"
    FAILS = "fails"
    MEASURED = "measured"
    """A number without a limit."""
    NOT_MEASURED = "not measured"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One result, or one that was not measured.

    Attributes:
        subject: Subject of the result.
        standing: Its status.
        number: Its number; empty if there is none.
        sentence: The result in words.
    """

    subject: str
    standing: Standing
    number: str
    sentence: str

    @property
    def result(self) -> str:
        """Status and number."""
        if self.standing is Standing.MEASURED:
            return self.number
        standing = self.standing.value.upper() if self.standing is Standing.FAILS else self.standing.value
        return f"{standing} {self.number}".rstrip()


def findings(report: Report) -> Iterator[Finding]:
    """Yield all findings, the most important first."""
    yield from _findings_here(report)
    for name, device in (report.devices or {}).items():
        if device.benchmark is not None:
            yield from _speedups(device.benchmark, where=f" on {name}")


def headline(report: Report) -> str:
    """Return the findings on this machine, and parity on devices, in one line."""
    return "; ".join(f"{finding.subject}: {finding.result}" for finding in _findings_here(report)) + "."


def _findings_here(report: Report) -> Iterator[Finding]:
    yield _parity(report.parity)
    for name, device in (report.devices or {}).items():
        yield _device_parity(name, device)
    for against in Against:
        yield from _checks(against, [check for check in report.checks or () if check.against is against])
    if report.pruning is not None:
        yield _quality(report.quality)
    if report.benchmark is not None:
        yield from _speedups(report.benchmark)
    elif report.pruning is not None:
        sentence = "Latency has not been measured: run amp-export benchmark OUT."
        yield Finding("Speedup", Standing.NOT_MEASURED, "", sentence)
    if report.pruning is not None:
        yield _removed(report.pruning)


def _parity(parity: ParityReport | None) -> Finding:
    if parity is None:
        return Finding("Parity", Standing.NOT_CHECKED, "", f"{PARITY_NOT_CHECKED}.")
    failed, total = count_failed(parity.cases)
    number = in_how_many(failed, total) if parity.holds or failed else "in greedy decoding"
    worst = worst_error(parity.cases)
    return Finding(
        "Parity",
        Standing.HOLDS if parity.holds else Standing.FAILS,
        number,
        f"The exported graph {'computes' if parity.holds else 'does not compute'} what PyTorch computes: largest error "
        f"{worst:.2g}, tolerance {parity.tolerance:.2g}.",
    )


def _device_parity(name: str, device: DeviceReport) -> Finding:
    cases = [case for parity in device.parity.values() for case in parity.cases]
    # both graphs run the same cases, so count them per graph
    counts = [count_failed(parity.cases) for parity in device.parity.values()]
    tolerance = largest(parity.tolerance for parity in device.parity.values())
    return Finding(
        f"Parity on {name}",
        Standing.HOLDS if device.holds else Standing.FAILS,
        in_how_many(sum(failed for failed, _ in counts), sum(total for _, total in counts)),
        f"{device.runtime}, {' and '.join(device.parity)} graph: largest error {worst_error(cases):.2g}, tolerance "
        f"{tolerance:.2g}.",
    )


KEPT = {
    Against.THRESHOLDS: "All numbers meet their thresholds.",
    Against.BASELINE: "No number is worse than the baseline beyond its tolerance.",
}
"""Sentence for checks that all hold."""


def _checks(against: Against, checks: Sequence[Check]) -> Iterator[Finding]:
    if not checks:
        return
    failed = [check.text for check in checks if not check.holds]
    standing = Standing.FAILS if failed else Standing.HOLDS
    number = in_how_many(len(failed), len(checks), "numbers")
    yield Finding(against.capitalize(), standing, number, " ".join(failed) or KEPT[against])


def _quality(quality: Quality | None) -> Finding:
    if quality is None:
        sentence = "Quality was not measured: perplexity needs a model that predicts the next token."
        return Finding("Quality", Standing.NOT_MEASURED, "", sentence)
    dense, pruned = quality.dense, quality.pruned
    way = "rose" if pruned > dense else "fell"
    agreement = ""
    if quality.kl is not None:
        agreement = (
            f" For {quality.top1_agreement:.1%} of the tokens both models have the same top-1 token; the mean KL "
            f"divergence from the dense model is {quality.kl:.3g} nats."
        )
    elsewhere = ""
    if (other := quality.other) is not None:
        elsewhere = (
            f" On {other.text}, it is {other.dense:.2f} and {other.pruned:.2f}, x {other.pruned / other.dense:.2f}."
        )
    return Finding(
        "Perplexity",
        Standing.MEASURED,
        f"x {pruned / dense:.2f}",
        f"It {way} from {dense:.2f} (dense) to {pruned:.2f} (pruned); lower is better.{agreement} Measured on "
        f"{quality.text}.{elsewhere}",
    )


WORDS = {
    Conclusion.FASTER: "The pruned graph is faster.",
    Conclusion.SLOWER: "The pruned graph is slower.",
    Conclusion.NEGLIGIBLE: "Any difference is too small to matter.",
    Conclusion.NOT_SIGNIFICANT: "No speedup can be claimed: the interval contains 1.",
    Conclusion.TOO_NOISY: "The machine was too noisy to conclude: the interval contains 1 and is wide.",
}
"""Sentence for each conclusion about a phase."""


def _speedups(benchmark: AnyBenchmark, *, where: str = "") -> Iterator[Finding]:
    for phase, result in benchmark.phases.items():
        low, high = result.interval
        meaning = WORDS[result.conclusion]
        yield Finding(
            phase_label(phase, benchmark) + where,
            Standing.MEASURED,
            claimed_speedup(result),
            f"{meaning} Dense time over pruned time is {result.speedup:.2f}, 95 % interval {low:.2f} to {high:.2f}.",
        )


def _removed(pruning: PruningSection) -> Finding:
    before, after = pruning.parameters_before, pruning.parameters_after
    return Finding(
        "Parameters",
        Standing.MEASURED,
        f"{(after - before) / before:+.1%}",
        f"{before / 1e6:.1f} M became {after / 1e6:.1f} M.",
    )
