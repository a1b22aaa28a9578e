"""Accuracy on tasks, by the rules of the LM Evaluation Harness."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.evaluation.decoders import Decoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.estimates import Estimate
from amp_export.evaluation.loglikelihood import log_likelihoods
from amp_export.evaluation.tasks import Task

if TYPE_CHECKING:
    from amp_export.progress import Advance


class Metric(enum.StrEnum):
    """The harness' names of accuracies, from the one that is reported first on."""

    ACC_NORM = "acc_norm"
    """Log-likelihoods are divided by the length of the continuation in characters first."""
    ACC = "acc"
    """The answer with the highest log-likelihood is chosen."""
    EXACT_MATCH = "exact_match"
    """The answer that the model writes is the right one."""


@dataclass(frozen=True)
class TaskResult:
    """Answers of a model to a task.

    Attributes:
        metric: The accuracy that the harness reports for this kind of task.
        accuracies: The accuracies; partial-context scoring has no normalized one, since all continuations are the same.
        floor: The largest accuracy of a constant answer; None if there is nothing to choose from.
        log_likelihoods: Summed log-likelihood of each option's continuation, by item; empty for what the model writes.
        correct: Whether the answer is correct by `metric`, by item; a number from 0 to 1 where the task gives points.
        few_shot: Number of examples before each question; None for a local file, whose contexts have what they have.
    """

    metric: Metric
    accuracies: dict[Metric, Estimate]
    floor: float | None
    log_likelihoods: tuple[tuple[float, ...], ...]
    correct: tuple[bool | float, ...]
    few_shot: int | None = None

    @property
    def accuracy(self) -> Estimate:
        """The accuracy by `metric`."""
        return self.accuracies[self.metric]


def run_task(model: Decoder, encoder: Encoder, task: Task, *, on_progress: Advance | None = None) -> TaskResult:
    """Let a model answer a task.

    Args:
        model: The decoder.
        encoder: Its tokenizer.
        task: The task.
        on_progress: Called with the number of texts done, and with all.

    Raises:
        TaskError: An option cannot be scored; the message names file and line.
        ModelError: The tokenizer fails, or is of another model.
    """
    requests = [
        encoder.encode_pair(context, continuation, place=item.place)
        for item in task.items
        for context, continuation in item.options
    ]
    found = iter(log_likelihoods(model, requests, on_progress=on_progress))
    return judge(task, [tuple(next(found) for _ in item.options) for item in task.items])


def judge(task: Task, found: Sequence[tuple[float, ...]]) -> TaskResult:
    """Return the accuracies for given log-likelihoods; of equal ones the first counts as chosen.

    Source: `process_results`, output type multiple_choice, in api/task.py of lm-eval 0.4.13.

    Args:
        task: The task.
        found: Summed log-likelihood of each option's continuation, by item.
    """
    correct: dict[Metric, list[bool]] = {Metric.ACC: []} if task.partial else {Metric.ACC: [], Metric.ACC_NORM: []}
    for item, values in zip(task.items, found, strict=True):
        lengths = [len(continuation) for _, continuation in item.options]
        for metric, answers in correct.items():
            scores = values if metric is Metric.ACC else [a / b for a, b in zip(values, lengths, strict=True)]
            answers.append(max(range(len(scores)), key=scores.__getitem__) == item.answer)
    metric = Metric.ACC if task.partial else Metric.ACC_NORM
    accuracies = {name: Estimate.of([float(each) for each in answers]) for name, answers in correct.items()}
    return TaskResult(metric, accuracies, task.floor, tuple(found), tuple(correct[metric]))
