"""Perplexity of a text by windows with strided context."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.errors import RequestError, TaskError
from amp_export.evaluation.decoders import Decoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.estimates import Estimate
from amp_export.evaluation.loglikelihood import Request, log_likelihoods
from amp_export.evaluation.pairs import exponential
from amp_export.inputs.texts import read_utf8, refuse_lone_surrogates

if TYPE_CHECKING:
    from amp_export.progress import Advance

WINDOW = 1024
"""Tokens of a window, unless the model takes fewer."""


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexity of a text.

    Attributes:
        perplexity: The perplexity, per token.
        stderr: Its standard error, from the differences between windows; None if there is a single window.
        losses: Negative log-likelihood of each window's scored tokens, in nats.
        tokens: Number of tokens scored in each window.
        window: Tokens of a window.
        stride: Tokens from the start of one window to the next.
        token_ids_sha256: Hash of the text's token ids: perplexities per token compare only if they are the same.
    """

    perplexity: float
    stderr: float | None
    losses: tuple[float, ...]
    tokens: tuple[int, ...]
    window: int
    stride: int
    token_ids_sha256: str


@dataclass(frozen=True)
class WordPerplexityResult:
    """Perplexity of a task's documents, each by itself.

    It is per word, whatever the tokens, so that it compares between models of any tokenizers.

    Attributes:
        perplexity: The perplexity, per word.
        stderr: Its standard error, from the differences between documents; None if there is a single one.
        losses: Negative log-likelihood of each document, in nats.
        words: Number of words of each document, as the task counts them.
    """

    perplexity: float
    stderr: float | None
    losses: tuple[float, ...]
    words: tuple[int, ...]

    @classmethod
    def of(cls, losses: Sequence[float], words: Sequence[int]) -> WordPerplexityResult:
        """Compute the perplexity of documents.

        Source: `weighted_perplexity` in api/metrics.py of lm-eval 0.4.13.

        Args:
            losses: Negative log-likelihood of each document, in nats.
            words: Number of words of each document.
        """
        return cls(*_with_stderr(Estimate.of_ratio(losses, words)), tuple(losses), tuple(words))


def read_text_file(file: Path) -> str:
    """Return the text to measure perplexity on.

    Raises:
        TaskError: The file is no `.txt` file, or empty, or not UTF-8.
    """
    if file.suffix.lower() != ".txt":
        advice = f"If it is a task: --tasks {file}" if file.suffix.lower() == ".jsonl" else "Give plain text."
        raise TaskError(f"{file} is no .txt file, of which perplexity is measured.\n{advice}")
    text = read_utf8(file, expected="a .txt file", error=TaskError)
    if not text.strip():
        raise TaskError(f"{file} is empty: it has no text to predict.\nGive a text, best of some thousand words.")
    refuse_lone_surrogates(text, str(file), error=TaskError)
    return text


def choose_window(window: int | None, stride: int | None, longest_text: int | None) -> tuple[int, int]:
    """Return window and stride in tokens; by default `WINDOW` or what the model takes, and half of the window.

    Args:
        window: The requested window, or None.
        stride: The requested stride, or None.
        longest_text: Largest number of tokens that the model takes; None if there is no limit.

    Raises:
        RequestError: The model takes no such window, or the stride skips tokens.
    """
    if window is not None and longest_text is not None and window > longest_text:
        raise RequestError(f"--window is {window}, but the model takes {longest_text} tokens.\nGive that or less.")
    chosen = window if window is not None else min(WINDOW, longest_text or WINDOW)
    if chosen < 2 or (stride is not None and not 1 <= stride <= chosen):
        raise RequestError(
            f"--window {chosen} --stride {stride}: a window has two tokens or more, and the next one starts at most a "
            "window later.\nGive a stride from 1 to the window; by default it is half of that."
        )
    return chosen, stride if stride is not None else chosen // 2


def cut(token_ids: Sequence[int], window: int, stride: int) -> list[Request]:
    """Return the windows of a text, each with the tokens that no window before it scored.

    A window's first token is never scored, since nothing precedes it there. Source: "Perplexity of fixed-length
    models", docs/source/en/perplexity.md of transformers 5.24.

    Args:
        token_ids: The text.
        window: Tokens of a window.
        stride: Tokens from the start of one window to the next.
    """
    requests: list[Request] = []
    end_before = 0
    for start in range(0, len(token_ids), stride):
        end = min(start + window, len(token_ids))
        scored = end - max(end_before, start + 1)
        if scored > 0:
            requests.append(Request(token_ids[start:end], scored))
        end_before = end
        if end == len(token_ids):
            break
    return requests


def measure_perplexity(
    model: Decoder,
    encoder: Encoder,
    text: str,
    *,
    window: int,
    stride: int,
    limit: int | None = None,
    on_progress: Advance | None = None,
) -> PerplexityResult:
    """Measure the perplexity of a text.

    Args:
        model: The decoder.
        encoder: Its tokenizer.
        text: The text.
        window: Tokens of a window.
        stride: Tokens from the start of one window to the next.
        limit: How many windows to take, from the first on; by default all.
        on_progress: Called with the number of windows done, and with all.

    Raises:
        TaskError: The text has fewer than two tokens.
        ModelError: The tokenizer fails, or is of another model.
    """
    token_ids = encoder.encode(text)
    requests = cut(token_ids, window, stride)[:limit]
    if not requests:
        raise TaskError("The text of --perplexity is a single token, so that none is predicted.\nGive a longer text.")
    losses = [-value for value in log_likelihoods(model, requests, on_progress=on_progress)]
    tokens = tuple(each.scored for each in requests)
    perplexity, stderr = _with_stderr(Estimate.of_ratio(losses, tokens))
    return PerplexityResult(
        perplexity=perplexity,
        stderr=stderr,
        losses=tuple(losses),
        tokens=tokens,
        window=window,
        stride=stride,
        token_ids_sha256=_hash(token_ids),
    )


def _with_stderr(mean: Estimate) -> tuple[float, float | None]:
    """Return the perplexity for a mean loss, and its standard error."""
    perplexity = exponential(mean.value)
    # the derivative of the exponential is itself
    return perplexity, None if mean.stderr is None else perplexity * mean.stderr


def _hash(token_ids: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).hexdigest()
