"""Show an evaluation in a terminal: a line for each measure, with the difference between the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from amp_export.evaluation.estimates import Estimate
from amp_export.evaluation.measuring import Evaluation, Measured
from amp_export.evaluation.pairs import Change, Difference, PerplexityDifference

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_TEXTS = 2
"""Prompts of which the texts are shown."""

_SHARES = {"distinct_bigrams": "distinct bigrams", "repeated_4grams": "repeated 4-grams"}


def show_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print measures with standard errors, differences with 95 % intervals, and the first generated texts."""
    models = [*([evaluation.against] if evaluation.against is not None else []), evaluation.model]
    console.print(f"Model: {evaluation.model.model}", markup=False, soft_wrap=True)
    if evaluation.against is not None:
        console.print(f"Compared with: {evaluation.against.model}", markup=False, soft_wrap=True)
    table = Table(box=SIMPLE)
    table.add_column("", overflow="fold")
    for heading in ("compared with", "model")[-len(models) :]:
        table.add_column(heading, justify="right")
    for heading in ("difference", "change") if len(models) > 1 else ():
        table.add_column(heading, justify="right", no_wrap=heading == "change")
    if evaluation.model.tasks:
        table.add_column("floor", justify="right", no_wrap=True)
    for row in _rows(evaluation, models):
        table.add_row(*map(escape, row[: len(table.columns)]))
    console.print(table)
    console.print(_legend(evaluation), soft_wrap=True)
    for note in evaluation.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    _show_texts(console, models)


def _rows(evaluation: Evaluation, models: list[Measured]) -> Iterator[tuple[str, ...]]:
    differences = evaluation.differences
    for name, task in evaluation.model.tasks.items():
        cells = [_percent(each.tasks[name].accuracy) for each in models]
        found = () if differences is None else _cells(differences.tasks[name].difference)
        yield (f"{name}, {task.metric}, {len(task.correct)} questions", *cells, *found, f"{task.floor:.1%}")
    if evaluation.model.average is not None:
        cells = [_percent(each.average) for each in models]
        found = () if differences is None or differences.average is None else _cells(differences.average)
        yield ("average of the tasks", *cells, *found, "")
    if (perplexity := evaluation.model.perplexity) is not None:
        windows = f"{len(perplexity.tokens)} windows of {perplexity.window}"
        yield (f"perplexity, {windows}", *(_perplexity(each) for each in models), *_perplexity_cells(evaluation), "")
    if evaluation.model.generation is not None:
        yield from _generation_rows(evaluation, models)


def _generation_rows(evaluation: Evaluation, models: list[Measured]) -> Iterator[tuple[str, ...]]:
    differences = None if evaluation.differences is None else evaluation.differences.generation
    tokens = [_number(each.generation.tokens) for each in models if each.generation is not None]
    yield ("tokens of a generated text", *tokens, *_found(differences, "tokens", percent=False), "")
    for name, label in _SHARES.items():
        shares = [_percent(getattr(each.generation, name)) for each in models]
        yield (label, *shares, *_found(differences, name), "")


def _found(differences: Mapping[str, Difference] | None, name: str, *, percent: bool = True) -> tuple[str, ...]:
    if differences is None:
        return ()
    return _cells(differences[name], percent=percent) if name in differences else ("", "")


def _perplexity_cells(evaluation: Evaluation) -> tuple[str, ...]:
    if evaluation.differences is None:
        return ()
    found: PerplexityDifference | None = evaluation.differences.perplexity
    if found is None:
        return "", ""
    low, high = found.interval
    return f"{found.ratio:.3f} times [{low:.3f}, {high:.3f}]", found.difference.change.value


def _cells(difference: Difference, *, percent: bool = True) -> tuple[str, str]:
    low, high = difference.interval
    scale, digits = (100, 1) if percent else (1, 1)
    numbers = [f"{scale * value:+.{digits}f}" for value in (difference.value, low, high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]", difference.change.value


def _percent(found: Estimate | None) -> str:
    if found is None:
        return ""
    return f"{found.value:.1%}" if found.stderr is None else f"{100 * found.value:.1f} ± {100 * found.stderr:.1f}%"


def _number(found: Estimate) -> str:
    return f"{found.value:.1f}" if found.stderr is None else f"{found.value:.1f} ± {found.stderr:.1f}"


def _perplexity(measured: Measured) -> str:
    found = measured.perplexity
    assert found is not None
    digits = ".2f" if found.perplexity < 1e4 else ".3g"
    stderr = "" if found.stderr is None else f" ± {found.stderr:{digits}}"
    return f"{found.perplexity:{digits}}{stderr}"


def _legend(evaluation: Evaluation) -> str:
    parts = ["± is the standard error."]
    if evaluation.model.tasks:
        parts.append("The floor is the accuracy of the best constant answer.")
    if evaluation.differences is not None:
        parts.append(
            "Differences, in percentage points, are paired by item and have 95 % intervals; change is "
            f"{Change.NONE} if the interval contains no difference."
        )
    if evaluation.limit is not None:
        parts.append(f"Only the first {evaluation.limit} of each file were taken.")
    return " ".join(parts)


def _show_texts(console: Console, models: list[Measured]) -> None:
    texts = [each.generation.texts for each in models if each.generation is not None]
    for written in list(zip(*texts, strict=True))[:SHOWN_TEXTS]:
        console.print(f"\nPrompt: {written[0].prompt}", markup=False, soft_wrap=True)
        for heading, text in zip(("Compared with", "Model")[-len(models) :], written, strict=True):
            console.print(f"{heading}: {text.text.strip()}", markup=False, soft_wrap=True)
