"""Which runtimes load what a plan makes of a model, before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amp_export.doctor.rules import Loader, Outcome, Status, Support
from amp_export.options import HeadPolicy


@dataclass(frozen=True)
class Verdict:
    """What a runtime makes of a plan.

    Attributes:
        runtime: Its name.
        version: The version that is meant.
        tried: Whether this project runs it; what others load is read from their sources.
        status: Whether it loads the result.
        needs: What it loads it with: options of this or of its command line.
        reason: Why it does not, or what is to be known.
        nearest: Where it cannot, the nearest ratio at which it can under the same settings, if there is one.
        source: Where the reason is from.
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
        """Whether it loads, perhaps with something."""
        return self.status in (Status.LOADS, Status.LOADS_WITH)


@dataclass(frozen=True)
class Choice:
    """One way to meet a ratio.

    Attributes:
        heads: Which kind of heads it removes.
        outcome: What it makes.
        padded: What --uniform pad would make of it, where that is something else.
    """

    heads: HeadPolicy
    outcome: Outcome
    padded: Outcome | None = None


def judge(runtime: Loader, choices: Sequence[Choice]) -> Verdict:
    """Return what a runtime makes of a plan of which the scores are yet to choose one way.

    Where it loads some ways and not others, it is said which --heads leaves those alone that it loads.
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
        return replace(failing, status=Status.NOT_KNOWN, reason=f"the scores decide; if not: {failing.reason}")
    return failing


def _judge_choice(runtime: Loader, choice: Choice) -> Verdict:
    verdict = _judge_outcome(runtime, choice.outcome)
    if verdict.loads or choice.padded is None:
        return verdict
    padded = _judge_outcome(runtime, choice.padded)
    return _with(padded, "--uniform pad", verdict) if padded.loads else verdict


def _judge_outcome(runtime: Loader, outcome: Outcome) -> Verdict:
    verdict = Verdict(runtime.name, runtime.version, runtime.tried, Status.LOADS)
    needs: list[str] = []
    for rule in runtime.rules:
        held = rule.holds(outcome)
        if held:
            continue
        verdict = replace(verdict, reason=rule.why(outcome), source=rule.source)
        if rule.needs is None:
            return replace(verdict, status=Status.NOT_KNOWN if held is None else rule.otherwise)
        needs.append(rule.needs)
    if needs:
        return replace(verdict, status=Status.LOADS_WITH, needs=" and ".join(needs))
    return replace(verdict, reason=runtime.classes.get(outcome.class_name, Support()).note)


def _join(verdicts: Sequence[Verdict]) -> Verdict:
    """Return one verdict for several that all load: with all that any of them needs."""
    needs = dict.fromkeys(verdict.needs for verdict in verdicts if verdict.needs is not None)
    chosen = next((verdict for verdict in verdicts if verdict.needs is not None), verdicts[0])
    return replace(chosen, needs=" and ".join(needs) or None)


def _with(verdict: Verdict, needed: str, failing: Verdict) -> Verdict:
    needs = " and ".join(filter(None, (needed, verdict.needs)))
    return replace(verdict, status=Status.LOADS_WITH, needs=needs, reason=failing.reason, source=failing.source)
