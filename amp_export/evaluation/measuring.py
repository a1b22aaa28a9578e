"""All measurements of one model, and the differences between two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from amp_export.evaluation.decoders import Evaluated
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.estimates import Estimate, average
from amp_export.evaluation.finished import Finished
from amp_export.evaluation.generation import GenerationResult, Text, write_texts
from amp_export.evaluation.harness import run_harness_task
from amp_export.evaluation.harness_tasks import HarnessTask
from amp_export.evaluation.pairs import (
    AccuracyDifference,
    Difference,
    PerplexityDifference,
    accuracy_difference,
    average_difference,
    mean_difference,
    perplexity_difference,
)
from amp_export.evaluation.perplexity import PerplexityResult, WordPerplexityResult, measure_perplexity
from amp_export.evaluation.scoring import TaskResult, run_task
from amp_export.evaluation.tasks import Task
from amp_export.progress import Progress


@dataclass(frozen=True)
class Work:
    """What to measure.

    Attributes:
        tasks: Tasks to answer, of local files.
        text: Text to measure perplexity on, or None.
        prompts: Prompts to write after.
        window: Tokens of a window of the text.
        stride: Tokens from the start of one window to the next.
        limit: Largest number of windows and prompts; tasks were cut when they were read.
        new_tokens: Largest number of tokens to write after a prompt.
        harness: Tasks of the LM Evaluation Harness.
    """

    tasks: tuple[Task, ...] = ()
    text: str | None = None
    prompts: tuple[str, ...] = ()
    window: int = 1024
    stride: int = 512
    limit: int | None = None
    new_tokens: int = 64
    harness: tuple[HarnessTask, ...] = ()


@dataclass(frozen=True)
class Measured:
    """Measurements of a model.

    Attributes:
        model: Its name.
        tasks: Its answers to tasks, by the tasks' names.
        average: Mean of the tasks' accuracies, if there are several.
        perplexity: Its perplexity on the text.
        generation: What it writes.
        word_perplexities: Its perplexities on tasks, by their names.
    """

    model: str
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    average: Estimate | None = None
    perplexity: PerplexityResult | None = None
    generation: GenerationResult | None = None
    word_perplexities: Mapping[str, WordPerplexityResult] = field(default_factory=dict)


@dataclass(frozen=True)
class Differences:
    """Differences between a model and another, on the same items.

    Attributes:
        tasks: Differences of accuracies, by the tasks' names.
        average: Difference of their means, if there are several.
        perplexity: Difference of the perplexities; None if the models tokenize the text differently.
        generation: Differences of `tokens`, `distinct_bigrams` and `repeated_4grams`.
        word_perplexities: Differences of the perplexities on tasks, by their names.
    """

    tasks: Mapping[str, AccuracyDifference] = field(default_factory=dict)
    average: Difference | None = None
    perplexity: PerplexityDifference | None = None
    generation: Mapping[str, Difference] = field(default_factory=dict)
    word_perplexities: Mapping[str, PerplexityDifference] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Measurements of a model, and what differs from another that was measured on the same items.

    Attributes:
        model: The model.
        against: The model that it is compared with, or None.
        differences: The differences, or None.
        limit: Largest number of questions, windows and prompts that were taken of each file; None for all.
        notes: Notes to the user.
        packages: Versions of the packages that computed it.
        schema: Version of this format.
    """

    SCHEMA: ClassVar[int] = 1

    model: Measured
    against: Measured | None = None
    differences: Differences | None = None
    limit: int | None = None
    notes: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def measure(
    name: str, model: Evaluated, encoder: Encoder, work: Work, progress: Progress, finished: Finished | None = None
) -> Measured:
    """Measure a model.

    Args:
        name: Name of the model.
        model: The model.
        encoder: Its tokenizer.
        work: What to measure.
        progress: Where to show progress.
        finished: Measurements of the model that are not repeated.

    Raises:
        TaskError: A question or the text cannot be scored.
        ModelError: The tokenizer fails, or is of another model.
    """
    finished = finished or Finished()
    answered = _answer(name, model, encoder, work, progress, finished)
    tasks = {task: found for task, found in answered.items() if isinstance(found, TaskResult)}
    perplexities = {task: found for task, found in answered.items() if isinstance(found, WordPerplexityResult)}
    perplexity = generation = None
    if work.text is not None:
        with progress.step(f"Measuring perplexity of {name}") as advance:
            how: dict[str, Any] = {"window": work.window, "stride": work.stride, "limit": work.limit}
            predict = partial(measure_perplexity, model, encoder, work.text, **how, on_progress=advance)
            perplexity = finished.recall(PerplexityResult, {"text": work.text, **how}, predict)
    if work.prompts:
        with progress.step(f"Generating text with {name}") as advance:
            prompts = work.prompts[: work.limit]
            write = partial(write_texts, model, encoder, prompts, tokens=work.new_tokens, on_progress=advance)
            generation = finished.recall(GenerationResult, {"prompts": prompts, "tokens": work.new_tokens}, write)
    accuracies = [each.accuracy for each in tasks.values()]
    mean = average(accuracies) if len(accuracies) > 1 else None
    return Measured(name, tasks, mean, perplexity, generation, perplexities)


def _answer(
    name: str, model: Evaluated, encoder: Encoder, work: Work, progress: Progress, finished: Finished
) -> dict[str, TaskResult | WordPerplexityResult]:
    """Let a model answer tasks, those of the harness last, and return its results by their names."""
    found: dict[str, TaskResult | WordPerplexityResult] = {}
    for task in work.tasks:
        with progress.step(f"Scoring {task.name} with {name}") as advance:
            score = partial(run_task, model, encoder, task, on_progress=advance)
            found[task.name] = finished.recall(TaskResult, task, score)
    for each in work.harness:
        with progress.step(f"Scoring {each.name} with {name}") as advance:
            judge = partial(run_harness_task, model, encoder, each, on_progress=advance)
            kind: type[Any] = TaskResult if each.metrics else WordPerplexityResult
            found[each.name] = finished.recall(kind, each.identity, judge)
    return found


def compare(measured: Measured, against: Measured) -> Differences:
    """Return the differences of a model from another, which was measured on the same."""
    tasks = {
        name: accuracy_difference(each.correct, against.tasks[name].correct) for name, each in measured.tasks.items()
    }
    differences = [each.difference for each in tasks.values()]
    return Differences(
        tasks,
        average_difference(differences) if len(differences) > 1 else None,
        compare_perplexity(measured.perplexity, against.perplexity),
        _compare_generation(measured.generation, against.generation),
        {
            name: perplexity_difference(each.losses, against.word_perplexities[name].losses, each.words)
            for name, each in measured.word_perplexities.items()
        },
    )


def compare_perplexity(one: PerplexityResult | None, other: PerplexityResult | None) -> PerplexityDifference | None:
    """Return the difference of two perplexities; None if one was not measured, or of a text tokenized differently."""
    if one is None or other is None or one.token_ids_sha256 != other.token_ids_sha256:
        return None
    return perplexity_difference(one.losses, other.losses, one.tokens)


def _compare_generation(one: GenerationResult | None, other: GenerationResult | None) -> dict[str, Difference]:
    if one is None or other is None:
        return {}
    measures: dict[str, Callable[[Text], float | None]] = {
        "tokens": lambda text: float(text.tokens),
        "distinct_bigrams": lambda text: text.distinct_bigrams,
        "repeated_4grams": lambda text: text.repeated_4grams,
    }
    differences = {}
    for name, read in measures.items():
        values = [(read(first), read(second)) for first, second in zip(one.texts, other.texts, strict=True)]
        known = [(first, second) for first, second in values if first is not None and second is not None]
        if known:
            ours, theirs = zip(*known, strict=True)
            differences[name] = mean_difference(ours, theirs)
    return differences
