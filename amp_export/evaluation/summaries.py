"""What an output keeps of an evaluation: its numbers, without the answers, windows and texts that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from amp_export.evaluation.estimates import Estimate
from amp_export.evaluation.generation import GenerationResult
from amp_export.evaluation.measuring import Differences, Evaluation, Measured
from amp_export.evaluation.perplexity import PerplexityResult
from amp_export.evaluation.scoring import Metric
from amp_export.outputs.manifest import Judged


@dataclass(frozen=True)
class TaskSummary:
    """A model's accuracy on a task.

    Attributes:
        metric: The accuracy that the harness reports for this kind of task.
        accuracies: The accuracies; each counts the questions.
        floor: The largest accuracy of a constant answer; None if there is nothing to choose from.
        few_shot: Number of examples before each question; None for a local file, whose contexts have what they have.
    """

    metric: Metric
    accuracies: Mapping[Metric, Estimate]
    floor: float | None
    few_shot: int | None = None

    @property
    def accuracy(self) -> Estimate:
        """The accuracy by `metric`."""
        return self.accuracies[self.metric]


@dataclass(frozen=True)
class PerplexitySummary:
    """A model's perplexity on a text.

    Attributes:
        perplexity: The perplexity, per token.
        stderr: Its standard error; None if there is a single window.
        windows: Number of windows.
        tokens: Number of tokens scored in all of them.
        window: Tokens of a window.
        stride: Tokens from the start of one window to the next.
        token_ids_sha256: Hash of the text's token ids: perplexities per token compare only if they are the same.
    """

    perplexity: float
    stderr: float | None
    windows: int
    tokens: int
    window: int
    stride: int
    token_ids_sha256: str


@dataclass(frozen=True)
class WordPerplexitySummary:
    """A model's perplexity on a task of the LM Evaluation Harness.

    Attributes:
        perplexity: The perplexity, per word.
        stderr: Its standard error; None if there is a single document.
        documents: Number of documents.
        words: Number of words of all of them.
    """

    perplexity: float
    stderr: float | None
    documents: int
    words: int


@dataclass(frozen=True)
class GenerationSummary:
    """How long the texts are that a model wrote, and how much they repeat themselves.

    Attributes:
        tokens: Mean number of tokens; it counts the texts.
        distinct_bigrams: Mean share of distinct bigrams, over the texts that have any; None if none has.
        repeated_4grams: Mean share of repeated 4-grams, over the texts that have any; None if none has.
    """

    tokens: Estimate
    distinct_bigrams: Estimate | None
    repeated_4grams: Estimate | None


@dataclass(frozen=True)
class MeasuredSummary:
    """Measurements of a model.

    Attributes:
        model: Its name.
        tasks: Its accuracies, by the tasks' names.
        average: Mean of the tasks' accuracies, if there are several.
        perplexity: Its perplexity on the text.
        generation: What its texts are like.
        word_perplexities: Its perplexities on tasks, by their names.
    """

    model: str
    tasks: Mapping[str, TaskSummary] = field(default_factory=dict)
    average: Estimate | None = None
    perplexity: PerplexitySummary | None = None
    generation: GenerationSummary | None = None
    word_perplexities: Mapping[str, WordPerplexitySummary] = field(default_factory=dict)

    @property
    def accuracy(self) -> Estimate | None:
        """The mean of the tasks' accuracies, or the accuracy of the only task; None without tasks."""
        return self.average or next((task.accuracy for task in self.tasks.values()), None)


@dataclass(frozen=True)
class EvaluationSummary:
    """Measurements of a part of an output, and what differs from the dense model.

    Attributes:
        judged: The checkpoint or export that was measured.
        model: Its measurements.
        against: Those of the dense model, or None if that no longer exists.
        differences: The differences, or None.
        limit: Largest number of questions, windows and prompts that were taken of each file; None for all.
        new_tokens: Largest number of tokens that were written after a prompt.
        files: SHA-256 of the files of tasks, text and prompts, by their paths as they were given; and by its name, of
            what a task of the LM Evaluation Harness asks.
        notes: Notes to the user.
        packages: Versions of the packages that computed it.
    """

    judged: Judged
    model: MeasuredSummary
    against: MeasuredSummary | None = None
    differences: Differences | None = None
    limit: int | None = None
    new_tokens: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)


def summarize(
    evaluation: Evaluation, judged: Judged, *, files: Mapping[str, str], new_tokens: int | None
) -> EvaluationSummary:
    """Return what an output keeps of an evaluation.

    Args:
        evaluation: The evaluation.
        judged: The part of the output that was measured.
        files: SHA-256 of the files of tasks, text and prompts, by their paths.
        new_tokens: Largest number of tokens that were written after a prompt; None if none was written.
    """
    return EvaluationSummary(
        judged,
        summarize_model(evaluation.model),
        None if evaluation.against is None else summarize_model(evaluation.against),
        evaluation.differences,
        evaluation.limit,
        new_tokens,
        files,
        evaluation.notes,
        evaluation.packages,
    )


def summarize_model(measured: Measured) -> MeasuredSummary:
    """Return the numbers of a model's measurements."""
    return MeasuredSummary(
        measured.model,
        {
            name: TaskSummary(task.metric, task.accuracies, task.floor, task.few_shot)
            for name, task in measured.tasks.items()
        },
        measured.average,
        None if measured.perplexity is None else _perplexity(measured.perplexity),
        None if measured.generation is None else _generation(measured.generation),
        {
            name: WordPerplexitySummary(found.perplexity, found.stderr, len(found.words), sum(found.words))
            for name, found in measured.word_perplexities.items()
        },
    )


def _perplexity(found: PerplexityResult) -> PerplexitySummary:
    return PerplexitySummary(
        found.perplexity,
        found.stderr,
        len(found.tokens),
        sum(found.tokens),
        found.window,
        found.stride,
        found.token_ids_sha256,
    )


def _generation(found: GenerationResult) -> GenerationSummary:
    return GenerationSummary(found.tokens, found.distinct_bigrams, found.repeated_4grams)
