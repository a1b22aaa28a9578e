"""What a model writes after prompts: greedy texts, and how much they repeat themselves.

Perplexity and tasks give the model good text to go on from, so that they do not see a model that loops on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.evaluation.decoders import Writer
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.estimates import Estimate

if TYPE_CHECKING:
    from amp_export.progress import Advance


@dataclass(frozen=True)
class Text:
    """What a model wrote.

    Attributes:
        prompt: The prompt.
        text: What follows it.
        tokens: Number of tokens of the text.
        distinct_bigrams: Share of pairs of adjacent tokens that are not the same as an earlier one; None if there are
            none.
        repeated_4grams: Share of sequences of four tokens that are the same as an earlier one; None if there are none.
    """

    prompt: str
    text: str
    tokens: int
    distinct_bigrams: float | None
    repeated_4grams: float | None


@dataclass(frozen=True)
class GenerationResult:
    """What a model wrote after prompts.

    Attributes:
        texts: The texts.
        tokens: Mean number of tokens.
        distinct_bigrams: Mean share of distinct bigrams, over the texts that have any; None if none has.
        repeated_4grams: Mean share of repeated 4-grams, over the texts that have any; None if none has.
    """

    texts: tuple[Text, ...]
    tokens: Estimate
    distinct_bigrams: Estimate | None
    repeated_4grams: Estimate | None


def write_texts(
    model: Writer,
    encoder: Encoder,
    prompts: Sequence[str],
    *,
    tokens: int,
    on_progress: Advance | None = None,
) -> GenerationResult:
    """Let a model continue prompts greedily.

    Args:
        model: The model.
        encoder: Its tokenizer.
        prompts: The prompts; of one that leaves no room, the beginning is left out.
        tokens: Largest number of tokens to write after each.
        on_progress: Called with the number of prompts done, and with all.

    Raises:
        ModelError: The tokenizer fails, or is of another model.
    """
    limit = encoder.longest_text
    texts = []
    for number, prompt in enumerate(prompts, start=1):
        token_ids = encoder.encode(prompt)
        steps = tokens if limit is None else min(tokens, limit - 1)
        given = token_ids if limit is None else token_ids[-(limit - steps) :]
        written = model.continue_greedily(given, steps)
        texts.append(describe(prompt, encoder.decode(written), written))
        if on_progress is not None:
            on_progress(number, len(prompts))
    return GenerationResult(
        texts=tuple(texts),
        tokens=Estimate.of([float(each.tokens) for each in texts]),
        distinct_bigrams=_mean([each.distinct_bigrams for each in texts]),
        repeated_4grams=_mean([each.repeated_4grams for each in texts]),
    )


def describe(prompt: str, text: str, token_ids: Sequence[int]) -> Text:
    """Return a text with its numbers.

    Args:
        prompt: The prompt.
        text: The text.
        token_ids: Its token ids.
    """
    repeated = _repeated(token_ids, 4)
    doubled = _repeated(token_ids, 2)
    return Text(prompt, text, len(token_ids), None if doubled is None else 1 - doubled, repeated)


def _repeated(token_ids: Sequence[int], length: int) -> float | None:
    """Return the share of sequences of some length that are the same as an earlier one; None if there are none."""
    found = [tuple(token_ids[start : start + length]) for start in range(len(token_ids) - length + 1)]
    return 1 - len(set(found)) / len(found) if found else None


def _mean(values: Sequence[float | None]) -> Estimate | None:
    known = [value for value in values if value is not None]
    return Estimate.of(known) if known else None
