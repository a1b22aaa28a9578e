"""What a decoder's parity is checked on: prompts, padding and decode steps, replayed alike through any runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Past = TypeVar("Past")
Forward = Callable[[Integers, Integers, Integers, Past | None], tuple[Floats, Past]]
"""(input_ids [batch, sequence], attention_mask [batch, total], position_ids [batch, sequence], past) to (logits
[batch, sequence, vocabulary], past)."""


@dataclass(frozen=True)
class Case:
    """One conversation with a decoder.

    Attributes:
        name: What a report calls it.
        prompt_lengths: Tokens of each row's prompt; shorter rows are padded on the left.
        decode_steps: Single tokens that follow, with the cache of all before.
    """

    name: str
    prompt_lengths: tuple[int, ...]
    decode_steps: int = 0


DEFAULT_CASES = (
    Case("prefill of 1 token", (1,)),
    Case("prefill of 17 tokens", (17,)),
    Case("prefill of 128 tokens", (128,)),
    Case("16 decode steps after 8 tokens", (8,), decode_steps=16),
    Case("left-padded batch of 5, 11 and 17 tokens, 4 decode steps", (5, 11, 17), decode_steps=4),
)


def cases_within(cases: tuple[Case, ...], max_context: int, *, max_batch: int | None = None) -> tuple[Case, ...]:
    """The cases that fit into a model's context, and into the batches that a graph takes."""
    fitting = (case for case in cases if max(case.prompt_lengths) + case.decode_steps <= max_context)
    return tuple(case for case in fitting if max_batch is None or len(case.prompt_lengths) <= max_batch)


def token_pool(checkpoint: Path, vocab_size: int) -> Integers:
    """Token ids to draw cases from: our own prompts through the checkpoint's tokenizer.

    Random ids would do for the arithmetic, but trained models answer them with outliers, in which noise drowns faults.
    They are taken where there is no tokenizer.
    """
    from amp_export.calibration import shipped_texts
    from amp_export.errors import ModelError
    from amp_export.loading import load_tokenizer, quiet_transformers

    try:
        tokenizer = load_tokenizer(checkpoint)
    except ModelError:
        return np.random.default_rng(0).integers(vocab_size, size=4096, dtype=np.int64)
    with quiet_transformers():  # the text is longer than what a model reads at once, and meant to be
        return np.asarray(tokenizer("\n".join(shipped_texts())).input_ids, dtype=np.int64)


def draw_tokens(case: Case, pool: Integers) -> Integers:
    """Token ids for a case, [batch, longest prompt + decode steps]."""
    return draw_rows(pool, len(case.prompt_lengths), max(case.prompt_lengths) + case.decode_steps)


def draw_rows(pool: Integers, rows: int, length: int) -> Integers:
    """Token ids, [rows, length]: each row starts elsewhere in the pool."""
    starts = np.arange(rows) * (len(pool) // rows)
    return pool.take(starts[:, None] + np.arange(length), mode="wrap")


def replay(case: Case, pool: Integers, forward: Forward[Past]) -> Floats:
    """Runs a case through a decoder: one prefill, then one call a decode step with the cache.

    Args:
        case: What to run.
        pool: Token ids to draw from.
        forward: The decoder.

    Returns:
        The logits at all real positions, float64 [positions, vocabulary]; padded positions are left out.
    """
    tokens_bs = draw_tokens(case, pool)
    longest = max(case.prompt_lengths)
    mask_bs = np.ones_like(tokens_bs)
    for row, length in enumerate(case.prompt_lengths):
        mask_bs[row, : longest - length] = 0
    # positions count real tokens only; what stands at padded places is never looked at
    positions_bs = np.maximum(mask_bs.cumsum(axis=1) - 1, 0)

    past: Past | None = None
    collected = []
    starts = [0, *range(longest, longest + case.decode_steps)]
    ends = [longest, *range(longest + 1, longest + case.decode_steps + 1)]
    for start, end in zip(starts, ends, strict=True):
        logits_bsv, past = forward(tokens_bs[:, start:end], mask_bs[:, :end], positions_bs[:, start:end], past)
        collected.append(logits_bsv[mask_bs[:, start:end] == 1].astype(np.float64))
    return np.concatenate(collected)
