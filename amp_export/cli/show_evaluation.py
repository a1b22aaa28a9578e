"""Show an evaluation in a terminal: a line for each measure, with the difference between the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from amp_export.evaluation.measuring import Evaluation, Measured
from amp_export.evaluation.summaries import summarize_model
from amp_export.reporting.evaluations import FLOOR, INTERVALS, STDERR, compared_rows

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_TEXTS = 2
"""Prompts of which the texts are shown."""


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
    for row in _rows(evaluation):
        table.add_row(*map(escape, row[: len(table.columns)]))
    console.print(table)
    console.print(_legend(evaluation), soft_wrap=True)
    for note in evaluation.notes:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)
    _show_texts(console, models)


def _rows(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    against = None if evaluation.against is None else summarize_model(evaluation.against)
    for row in compared_rows(summarize_model(evaluation.model), against, evaluation.differences):
        compared = () if against is None else (f"{row.difference} {row.interval}".strip(), row.change)
        yield (row.label, *(() if against is None else (row.against,)), row.model, *compared, row.floor)


def _legend(evaluation: Evaluation) -> str:
    parts = [STDERR]
    if evaluation.model.tasks:
        parts.append(FLOOR)
    if evaluation.differences is not None:
        parts.append(INTERVALS)
    if evaluation.limit is not None:
        parts.append(f"Only the first {evaluation.limit} of each file were taken.")
    return " ".join(parts)


def _show_texts(console: Console, models: list[Measured]) -> None:
    texts = [each.generation.texts for each in models if each.generation is not None]
    for written in list(zip(*texts, strict=True))[:SHOWN_TEXTS]:
        console.print(f"\nPrompt: {written[0].prompt}", markup=False, soft_wrap=True)
        for heading, text in zip(("Compared with", "Model")[-len(models) :], written, strict=True):
            console.print(f"{heading}: {text.text.strip()}", markup=False, soft_wrap=True)
