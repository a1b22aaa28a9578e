"""Rows and sentences about an evaluation: a row for each measure, with the difference between two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from amp_export.evaluation.estimates import Estimate
from amp_export.evaluation.measuring import Differences
from amp_export.evaluation.pairs import Change, Difference, PerplexityDifference
from amp_export.evaluation.summaries import (
    EvaluationSummary,
    GenerationSummary,
    MeasuredSummary,
    PerplexitySummary,
    WordPerplexitySummary,
)
from amp_export.outputs.names import PRUNED
from amp_export.reporting.benchmarks import PhaseRow

_SHARES = {"distinct_bigrams": "Distinct bigrams", "repeated_4grams": "Repeated 4-grams"}

STDERR = "± is the standard error."

FLOOR = "The floor is the accuracy of the best constant answer."

INTERVALS = (
    "Differences, in percentage points, are paired by item and have 95 % intervals; change is "
    f"{Change.NONE} if the interval contains no difference."
)


@dataclass(frozen=True)
class MeasureRow:
    """One measure of a model, and of the one that it is compared with.

    Attributes:
        label: Name of the measure.
        model: Its value.
        against: Its value for the other model; empty if there is none.
        difference: The difference, or the ratio of perplexities.
        interval: Its 95 % interval.
        change: Conclusion from the interval.
        floor: The accuracy of the best constant answer.
    """

    label: str
    model: str
    against: str = ""
    difference: str = ""
    interval: str = ""
    change: str = ""
    floor: str = ""

    @property
    def conclusion(self) -> str:
        """The difference with its interval, or `none` with it if the interval contains no difference."""
        return f"{Change.NONE if self.change == Change.NONE else self.difference} {self.interval}".strip()


def compared_rows(
    model: MeasuredSummary, against: MeasuredSummary | None, differences: Differences | None
) -> Iterator[MeasureRow]:
    """Yield a row for each task, their average, each perplexity, and each measure of generated texts."""
    found = differences or Differences()
    for name, task in model.tasks.items():
        difference = found.tasks.get(name)
        yield MeasureRow(
            f"{name}, {task.metric}, {task.accuracy.count} questions{_shots(task.few_shot)}",
            percent(task.accuracy),
            percent(None if against is None else against.tasks[name].accuracy),
            **_difference(None if difference is None else difference.difference),
            floor="" if task.floor is None else f"{task.floor:.1%}",
        )
    if model.average is not None:
        other = percent(None if against is None else against.average)
        yield MeasureRow("Average of the tasks", percent(model.average), other, **_difference(found.average))
    if (perplexity := model.perplexity) is not None:
        yield MeasureRow(
            f"Perplexity, {perplexity.windows} windows of {perplexity.window}",
            _perplexity(perplexity),
            "" if against is None or against.perplexity is None else _perplexity(against.perplexity),
            **_ratio(found.perplexity),
        )
    for name, words in model.word_perplexities.items():
        yield MeasureRow(
            f"{name}, perplexity per word, {words.documents} documents",
            _perplexity(words),
            "" if against is None else _perplexity(against.word_perplexities[name]),
            **_ratio(found.word_perplexities.get(name)),
        )
    if model.generation is not None:
        other_texts = None if against is None else against.generation
        yield from _generation_rows(model.generation, other_texts, found.generation)


def _generation_rows(
    model: GenerationSummary, against: GenerationSummary | None, differences: Mapping[str, Difference]
) -> Iterator[MeasureRow]:
    yield MeasureRow(
        "Tokens of a generated text",
        _number(model.tokens),
        "" if against is None else _number(against.tokens),
        **_difference(differences.get("tokens"), scale=1),
    )
    for name, label in _SHARES.items():
        value, other = (None if each is None else getattr(each, name) for each in (model, against))
        # texts that are too short have none
        if value is not None or other is not None:
            yield MeasureRow(label, percent(value), percent(other), **_difference(differences.get(name)))


def _shots(few_shot: int | None) -> str:
    return f", {few_shot}-shot" if few_shot else ""


def _difference(found: Difference | None, *, scale: int = 100) -> dict[str, Any]:
    if found is None:
        return {}
    low, high = found.interval
    number, low_end, high_end = (f"{scale * value:+.1f}" for value in (found.value, low, high))
    return {"difference": number, "interval": f"[{low_end}, {high_end}]", "change": found.change.value}


def _ratio(found: PerplexityDifference | None) -> dict[str, Any]:
    if found is None:
        return {}
    low, high = found.interval
    interval, change = f"[{low:.3f}, {high:.3f}]", found.difference.change.value
    return {"difference": f"{found.ratio:.3f} times", "interval": interval, "change": change}


def percent(found: Estimate | None) -> str:
    """Return a share in percent, with its standard error; the empty string if there is none."""
    if found is None:
        return ""
    return f"{found.value:.1%}" if found.stderr is None else f"{100 * found.value:.1f} ± {100 * found.stderr:.1f}%"


def _number(found: Estimate) -> str:
    return f"{found.value:.1f}" if found.stderr is None else f"{found.value:.1f} ± {found.stderr:.1f}"


def _perplexity(found: PerplexitySummary | WordPerplexitySummary) -> str:
    shown = plain_perplexity(found)
    return shown if found.stderr is None else f"{shown} ± {found.stderr:{_digits(found)}}"


def plain_perplexity(found: PerplexitySummary | WordPerplexitySummary) -> str:
    """Return a perplexity without its standard error."""
    return f"{found.perplexity:{_digits(found)}}"


def _digits(found: PerplexitySummary | WordPerplexitySummary) -> str:
    return ".2f" if found.perplexity < 1e4 else ".3g"


def accuracy_difference(evaluation: EvaluationSummary) -> Difference | None:
    """Return the difference of the tasks' average accuracy, or of the only task's; None if nothing was compared."""
    found = evaluation.differences or Differences()
    return found.average or next((each.difference for each in found.tasks.values()), None)


def perplexity_difference(evaluation: EvaluationSummary) -> PerplexityDifference | None:
    """Return the difference of the perplexities; None if nothing was compared."""
    return None if evaluation.differences is None else evaluation.differences.perplexity


def evaluation_rows(evaluations: Mapping[str, EvaluationSummary]) -> Iterator[PhaseRow]:
    """Yield the rows of all evaluations, those of an export below its name."""
    for part, evaluation in evaluations.items():
        if part != PRUNED:
            yield PhaseRow(f"Evaluation of {part}")
        for row in compared_rows(evaluation.model, evaluation.against, evaluation.differences):
            yield PhaseRow(row.label, row.against, row.model, row.conclusion)


def evaluation_lines(evaluations: Mapping[str, EvaluationSummary]) -> Iterator[str]:
    """Yield on what each part was evaluated, with notes, and what its numbers mean."""
    for part, evaluation in evaluations.items():
        taken = f"; only the first {evaluation.limit} of each file were taken" if evaluation.limit is not None else ""
        yield f"The evaluation of {part} is on {', '.join(evaluation.files)}{taken}."
        yield from (f"Note: {note}" for note in evaluation.notes)
    if evaluations:
        yield f"{STDERR} {INTERVALS}"


def evaluation_verdict(evaluation: EvaluationSummary) -> dict[str, Any]:
    """Return the verdict on a part for an output's manifest: accuracy, perplexity, and what differs from dense."""
    accuracy, perplexity = evaluation.model.accuracy, evaluation.model.perplexity
    difference = accuracy_difference(evaluation)
    compared = perplexity_difference(evaluation)
    verdict = {
        "accuracy": None if accuracy is None else accuracy.value,
        "accuracy_change": None if difference is None else difference.change.value,
        "perplexity": None if perplexity is None else perplexity.perplexity,
        "perplexity_ratio": None if compared is None else compared.ratio,
        "perplexity_change": None if compared is None else compared.difference.change.value,
    }
    return {name: value for name, value in verdict.items() if value is not None}


def accuracy_label(evaluation: EvaluationSummary) -> str:
    """Return what an accuracy is of: the average of all tasks, or the only one."""
    tasks = evaluation.model.tasks
    return f"Average of {len(tasks)} tasks" if len(tasks) > 1 else next(iter(tasks))


def measured_values(model: MeasuredSummary) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a model by their names in properties."""
    for name, task in model.tasks.items():
        yield f"accuracy.{name}", task.accuracy.value
    if model.average is not None:
        yield "average_accuracy", model.average.value
    if model.perplexity is not None:
        yield "perplexity", model.perplexity.perplexity
    for name, words in model.word_perplexities.items():
        yield f"word_perplexity.{name}", words.perplexity
    if model.generation is not None:
        for name in ("tokens", *_SHARES):
            found: Estimate | None = getattr(model.generation, name)
            if found is not None:
                yield f"generation.{name}", found.value


def evaluation_properties(prefix: str, evaluation: EvaluationSummary) -> Iterator[tuple[str, str]]:
    """Yield the numbers of both models, and their differences with 95 % intervals; of perplexities, the ratio."""
    for subject, model in (("dense", evaluation.against), ("pruned", evaluation.model)):
        if model is not None:
            yield from ((f"{prefix}.{name}.{subject}", f"{value:.6g}") for name, value in measured_values(model))
    if (found := evaluation.differences) is None:
        return
    named = {f"accuracy.{name}": each.difference for name, each in found.tasks.items()}
    if found.average is not None:
        named["average_accuracy"] = found.average
    named |= {f"generation.{name}": each for name, each in found.generation.items()}
    compared = {name: (each.value, each.interval, each.change) for name, each in named.items()}
    ratios = {f"word_perplexity.{name}": each for name, each in found.word_perplexities.items()}
    if found.perplexity is not None:
        ratios["perplexity"] = found.perplexity
    compared |= {name: (each.ratio, each.interval, each.difference.change) for name, each in ratios.items()}
    for name, (value, (low, high), change) in compared.items():
        yield f"{prefix}.{name}.{'ratio' if name in ratios else 'difference'}", f"{value:.4g}"
        yield f"{prefix}.{name}.interval", f"{low:.4g} to {high:.4g}"
        yield f"{prefix}.{name}.change", change
