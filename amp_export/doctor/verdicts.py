"""Predicts which runtimes will load the pruned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from amp_export.doctor.rules import Loader, Outcome, Status, Support
from amp_export.options import HeadPolicy


@dataclass(frozen=True)
class Verdict:
    """Whether a runtime will load the pruned model.

    Attributes:
        runtime: Name of the runtime.
        version: Version of the runtime.
        tried: Whether this project runs it; otherwise the verdict is read from its sources.
        status: Whether it loads the result.
        needs: Options with which it loads: of amp-export or of the runtime's command line.
        reason: Why it does not load, or a note.
        nearest: If it cannot, the nearest ratio at which it can, with the same settings; None if there is none.
        source: Source of the reason.
    """

    runtime: str
    version: str
    tried: bool
    status: Status
    needs: str | None = None
    reason: str | None = None
    nearest: float | None = None
    source: str | None = None

    @property
    def loads(self) -> bool:
        """Whether it loads, with or without further options."""
        return self.status in (Status.LOADS, Status.LOADS_WITH)


@dataclass(frozen=True)
class Choice:
    """One way to meet a ratio.

    Attributes:
        heads: Kind of heads that it removes.
        outcome: The pruned model.
        others: The pruned model with further options, by those, the better one first.
    """

    heads: HeadPolicy
    outcome: Outcome
    others: Mapping[str, Outcome] = field(default_factory=dict)


def judge(runtime: Loader, choices: Sequence[Choice]) -> Verdict:
    """Return a runtime's verdict on a plan for which the scores have not yet chosen an option.

    If it loads only some of the options, the verdict names the --heads that restricts the plan to those.
    """
    verdicts = [(choice.heads, _judge_choice(runtime, choice)) for choice in choices]
    failing = next((verdict for _, verdict in verdicts if not verdict.loads), None)
    if failing is None:
        return _join([verdict for _, verdict in verdicts])
    spoilt = {heads for heads, verdict in verdicts if not verdict.loads}
    good = [(heads, verdict) for heads, verdict in verdicts if heads not in spoilt]
    if good:
        heads = good[0][0]
        joined = _join([verdict for each, verdict in good if each is heads])
        return _with(joined, f"--heads {heads.value}", failing)
    if any(verdict.loads for _, verdict in verdicts):
        return replace(
            failing, status=Status.NOT_KNOWN, reason=f"the scores decide; if it does not load: {failing.reason}"
        )
    return failing


def _judge_choice(runtime: Loader, choice: Choice) -> Verdict:
    verdict = _judge_outcome(runtime, choice.outcome)
    if verdict.loads:
        return verdict
    others = {option: _judge_outcome(runtime, outcome) for option, outcome in choice.others.items()}
    return next((_with(other, option, verdict) for option, other in others.items() if other.loads), verdict)


def _judge_outcome(runtime: Loader, outcome: Outcome) -> Verdict:
    verdict = Verdict(runtime.name, runtime.version, runtime.tried, Status.LOADS)
    needs: list[str] = []
    for rule in runtime.rules:
        held = rule.holds(outcome)
        if held:
            continue
        verdict = replace(verdict, reason=rule.why(outcome), source=rule.source)
        if rule.needs is None:
            return replace(verdict, status=Status.NOT_KNOWN if held is None else Status.CANNOT)
        needs.append(rule.needs)
    if needs:
        return replace(verdict, status=Status.LOADS_WITH, needs=" and ".join(needs))
    return replace(verdict, reason=runtime.classes.get(outcome.class_name, Support()).note)


def _join(verdicts: Sequence[Verdict]) -> Verdict:
    """Merge several positive verdicts into one, with the needs of all."""
    needs = dict.fromkeys(need for verdict in verdicts if verdict.needs for need in verdict.needs.split(" and "))
    chosen = next((verdict for verdict in verdicts if verdict.needs is not None), verdicts[0])
    return replace(chosen, needs=" and ".join(needs) or None)


def _with(verdict: Verdict, needed: str, failing: Verdict) -> Verdict:
    needs = " and ".join(filter(None, (needed, verdict.needs)))
    return replace(verdict, status=Status.LOADS_WITH, needs=needs, reason=failing.reason, source=failing.source)
