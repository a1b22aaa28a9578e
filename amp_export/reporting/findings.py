"""Findings of a report: parity, quality, evaluation, speedup, parameters; each is a sentence with its number."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from amp_export.benchmarking.device_results import DeviceReport
from amp_export.benchmarking.statistics import Conclusion
from amp_export.evaluation.pairs import Change
from amp_export.evaluation.summaries import EvaluationSummary
from amp_export.outputs.names import PRUNED
from amp_export.parity.extremes import largest
from amp_export.parity.results import ParityReport
from amp_export.pruning.quality import Quality
from amp_export.reporting.checks import Against, Check
from amp_export.reporting.evaluations import (
    accuracy_difference,
    accuracy_label,
    perplexity_difference,
    plain_perplexity,
)
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
    primary = _primary_evaluation(report)
    yield from _evaluations({part: each for part, each in (report.evaluations or {}).items() if part not in primary})
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
    yield from _evaluations(_primary_evaluation(report))
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
    elsewhere = "in greedy decoding" if parity.greedy is not None and not parity.greedy.holds else "in int8"
    number = in_how_many(failed, total) if parity.holds or failed else elsewhere
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


def _primary_evaluation(report: Report) -> dict[str, EvaluationSummary]:
    """Return the evaluation that the headline tells of, by its part; the page tells of the others, too."""
    return {} if report.evaluation is None else {report.evaluation.judged.part: report.evaluation}


def _evaluations(evaluations: Mapping[str, EvaluationSummary]) -> Iterator[Finding]:
    for part, evaluation in evaluations.items():
        where = "" if part == PRUNED else f" of {part}"
        if evaluation.model.tasks:
            yield _accuracy(f"Accuracy{where}", part, evaluation)
        if evaluation.model.perplexity is not None:
            yield _text_perplexity(f"Perplexity{where} on the evaluated text", part, evaluation)


WAYS = {Change.HIGHER: "Higher", Change.LOWER: "Lower", Change.NONE: "No difference within the interval"}
"""Words for the change from the dense model."""


def _accuracy(subject: str, part: str, evaluation: EvaluationSummary) -> Finding:
    found, what = evaluation.model.accuracy, accuracy_label(evaluation)
    assert found is not None
    dense = None if evaluation.against is None else evaluation.against.accuracy
    difference = accuracy_difference(evaluation)
    if dense is None or difference is None:
        sentence = f"{what}: {found.value:.1%} ({part}). The dense model was not measured beside it."
        return Finding(subject, Standing.MEASURED, f"{found.value:.1%}", sentence)
    low, high = (f"{100 * each:+.1f}" for each in difference.interval)
    number = f"{100 * difference.value:+.1f} points"
    return Finding(
        subject,
        Standing.MEASURED,
        "no difference" if difference.change is Change.NONE else number,
        f"{what}: {dense.value:.1%} (dense), {found.value:.1%} ({part}). {WAYS[difference.change]}: {number}, 95 % "
        f"interval {low} to {high}.",
    )


def _text_perplexity(subject: str, part: str, evaluation: EvaluationSummary) -> Finding:
    found, compared = evaluation.model.perplexity, perplexity_difference(evaluation)
    dense = None if evaluation.against is None else evaluation.against.perplexity
    assert found is not None
    if dense is None or compared is None:
        sentence = f"{plain_perplexity(found)} ({part}); lower is better. It was not compared with the dense model's."
        return Finding(subject, Standing.MEASURED, plain_perplexity(found), sentence)
    low, high = compared.interval
    change = compared.difference.change
    return Finding(
        subject,
        Standing.MEASURED,
        "no difference" if change is Change.NONE else f"x {compared.ratio:.2f}",
        f"{plain_perplexity(dense)} (dense), {plain_perplexity(found)} ({part}); lower is better. {WAYS[change]}: "
        f"{compared.ratio:.3f} times, 95 % interval {low:.3f} to {high:.3f}.",
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
