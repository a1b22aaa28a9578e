"""Models as the LM Evaluation Harness sees them, and what it finds out about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.quiet import quiet_harness
from amp_export.errors import TaskError
from amp_export.evaluation.decoders import Evaluated
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.estimates import Estimate
from amp_export.evaluation.harness_tasks import WORD_PERPLEXITY, HarnessTask, draw_examples_anew, seeded
from amp_export.evaluation.loglikelihood import Request, score
from amp_export.evaluation.perplexity import WordPerplexityResult
from amp_export.evaluation.scoring import TaskResult

if TYPE_CHECKING:
    from amp_export.progress import Advance


class Answers:
    """A model's answers to the requests of a task.

    Args:
        model: The decoder.
        encoder: Its tokenizer.
        name: Name of the task, for errors.
        on_progress: Called with the number of requests done, and with all.
    """

    def __init__(self, model: Evaluated, encoder: Encoder, name: str, *, on_progress: Advance | None = None) -> None:
        self._model = model
        self._encoder = encoder
        self._name = name
        self._on_progress = on_progress

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation after its context, and whether it is the most likely text."""
        pairs = [self._encoder.encode_pair(*each.args, place=self._place(each)) for each in requests]
        found = score(self._model, pairs, on_progress=self._on_progress)
        return [(each.log_likelihood, each.is_greedy) for each in found]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-likelihood of each text, every token of which is scored once.

        Source: `loglikelihood_rolling` in models/huggingface.py of lm-eval 0.4.13.
        """
        windows = [list(self._windows(each)) for each in requests]
        found = iter(score(self._model, [each for text in windows for each in text], on_progress=self._on_progress))
        return [sum(next(found).log_likelihood for _ in text) for text in windows]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return what the model writes after each context, up to the first text that the task ends at."""
        texts = []
        for number, each in enumerate(requests, start=1):
            texts.append(self._write(*each.args))
            if self._on_progress is not None:
                self._on_progress(number, len(requests))
        return texts

    def _place(self, request: Any) -> str:
        return f"{self._name}, question {request.doc_id + 1}"

    def _windows(self, request: Any) -> list[Request]:
        from lm_eval.defaults import DEFAULT_MAX_LENGTH
        from lm_eval.utils import get_rolling_token_windows

        (text,) = request.args
        pairs = get_rolling_token_windows(
            token_list=self._encoder.encode(text),
            prefix_token=self._encoder.first_token(self._place(request)),
            max_seq_len=self._encoder.longest_text or DEFAULT_MAX_LENGTH,
            context_len=1,
        )
        return [Request([*given, scored[-1]], len(scored)) for given, scored in pairs]

    def _write(self, context: str, settings: Mapping[str, Any]) -> str:
        from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

        used = normalize_gen_kwargs(dict(settings))
        ends = [end for end in used["until"] if end]
        token_ids, limit, tokens = self._encoder.encode(context), self._encoder.longest_text, used["max_gen_toks"]
        if limit is not None:
            tokens = min(tokens, limit - 1)
            token_ids = token_ids[-(limit - tokens) :]

        def is_done(written: Sequence[int]) -> bool:
            text = self._encoder.decode(list(written))
            return any(end in text for end in ends)

        written = self._model.continue_greedily(token_ids, tokens, stop=is_done if ends else None)
        text = postprocess_generated_text(self._encoder.decode(written), ends, think_end_token=None)
        return str(text)


def run_harness_task(
    model: Evaluated, encoder: Encoder, task: HarnessTask, *, on_progress: Advance | None = None
) -> TaskResult | WordPerplexityResult:
    """Let the harness judge a model on a task.

    Args:
        model: The decoder.
        encoder: Its tokenizer.
        task: The task.
        on_progress: Called with the number of requests done, and with all.

    Raises:
        TaskError: A question cannot be scored, or the harness gives no number for it.
        ModelError: The tokenizer fails, or is of another model.
    """
    from lm_eval.evaluator import evaluate

    answers = Answers(model, encoder, task.name, on_progress=on_progress)
    draw_examples_anew(task.task)
    with quiet_harness(), seeded():
        # standard errors are those of Estimate: bootstrapping them would take processes and minutes
        found = evaluate(
            lm=_as_language_model(answers),
            task_dict={"tasks": {task.name: task.task}},
            limit=task.limit,
            bootstrap_iters=0,
        )
    samples = found["samples"][task.name]
    # where answers are read in several ways, each has its samples; the task names the strictest first
    samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    if not task.metrics:
        losses, words = zip(*(sample[WORD_PERPLEXITY] for sample in samples), strict=True)
        return WordPerplexityResult.of([-float(each) for each in losses], [int(each) for each in words])
    points = {metric: [_points(task, metric, sample) for sample in samples] for metric in task.metrics}
    metric = task.metrics[0]
    return TaskResult(
        metric,
        {name: Estimate.of(values) for name, values in points.items()},
        _floor(task.task, samples),
        tuple(map(_log_likelihoods, samples)),
        tuple(bool(each) if each in {0.0, 1.0} else each for each in points[metric]),
        task.few_shot,
    )


def _as_language_model(answers: Answers) -> Any:
    """Return answers as a model of the harness, whose class exists only where it is installed."""
    from lm_eval.api.model import LM

    class LanguageModel(LM):  # type: ignore[misc] # the harness may be missing
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return answers.loglikelihood(requests)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return answers.loglikelihood_rolling(requests)

        def generate_until(self, requests: list[Any]) -> list[str]:
            return answers.generate_until(requests)

    return LanguageModel()


def _points(task: HarnessTask, metric: str, sample: Mapping[str, Any]) -> float:
    value = sample.get(metric)
    try:
        points = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        points = -1.0
    if not 0 <= points <= 1:
        raise TaskError(
            f"--tasks {task.name}: the harness gives {metric} {str(value)[:40]} to question {sample['doc_id'] + 1}, "
            "and no number from 0 to 1.\nChoose another task."
        )
    return points


def _log_likelihoods(sample: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the log-likelihood of each continuation of a question; empty if the model wrote the answer."""
    first = [responses[0] for responses in sample["resps"]]
    return tuple(float(each[0]) for each in first if isinstance(each, tuple))


def _floor(task: Any, samples: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the largest accuracy of a constant answer; None unless options have numbers, and one of them is right."""
    if task.OUTPUT_TYPE != "multiple_choice" or callable(task.get_config("process_results")):
        return None
    right: Counter[int] = Counter()
    for sample in samples:
        answer = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
        if isinstance(answer, str):
            choices = task.doc_to_choice(sample["doc"])
            answer = choices.index(answer) if answer in choices else []
        right.update({answer} if isinstance(answer, int) else set(answer))
    return max(right.values(), default=0) / len(samples)
