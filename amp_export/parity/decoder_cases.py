"""Parity cases of decoders: prompts, padding and decode steps, replayed identically through any runtime."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from amp_export.architectures import ModelConfig
from amp_export.inputs.tokens import Floats, Integers, draw_rows
from amp_export.options import Logits
from amp_export.parity.switches import Switch, switches

Cache = TypeVar("Cache")
Forward = Callable[[Integers, Integers, Integers, Cache | None], tuple[Floats, Cache]]
"""(input_ids [batch, sequence], attention_mask [batch, total], position_ids [batch, sequence], KV cache) to (logits
[batch, sequence, vocabulary], KV cache)."""


Count = Annotated[int, msgspec.Meta(ge=0)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1)]
TokenCounts = Annotated[tuple[PositiveCount, ...], msgspec.Meta(min_length=1)]
"""Number of tokens of each row; case files are validated against these limits."""


class Padding(enum.StrEnum):
    """The side on which the shorter texts of a batch are padded."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True)
class Case:
    """One sequence of calls of a decoder.

    Attributes:
        name: Name in a report.
        prompt_lengths: Tokens of each row's prompt.
        decode_steps: Number of single-token calls at the end.
        padding: Side on which shorter rows are padded.
        chunks: Lengths of chunks between prompt and decode steps: calls of several tokens with a filled KV cache.
    """

    name: str
    prompt_lengths: TokenCounts
    decode_steps: Count = 0
    padding: Padding = Padding.LEFT
    chunks: tuple[PositiveCount, ...] = ()

    @property
    def calls(self) -> tuple[int, ...]:
        """Number of new tokens of each call of the decoder."""
        return (max(self.prompt_lengths), *self.chunks, *(1,) * self.decode_steps)

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows, including padding."""
        return len(self.prompt_lengths) * sum(self.calls)

    @property
    def longest_text(self) -> int:
        """Number of tokens of the longest row."""
        return sum(self.calls)

    @property
    def is_varied(self) -> bool:
        """Whether any call uses a filled KV cache."""
        return len(self.calls) > 1


LONGEST = 256
"""Tokens of the longest default case that runs if the context allows: PyTorch has to compute it in float64."""

COMPARED_POSITIONS = 128
"""Maximum number of positions whose logits are compared per call and row, spread evenly from first to last."""

DEFAULT_CASES = (
    Case("prefill of 1 token", (1,)),
    Case("prefill of 2 tokens", (2,)),
    Case("prefill of 17 tokens", (17,)),
    Case(f"prefill of {LONGEST} tokens", (LONGEST,)),
    Case("16 decode steps after 8 tokens", (8,), decode_steps=16),
    Case("chunks of 5, 1 and 7 tokens after 40", (40,), decode_steps=2, chunks=(5, 1, 7)),
    Case("left-padded batch of 1, 2, 5, 11 and 17 tokens, 4 decode steps", (1, 2, 5, 11, 17), decode_steps=4),
    # no text of one token: the token after the padding would be its second, where noise is a hundred times larger
    Case("right-padded batch of 5, 8, 11, 14 and 17 tokens, 4 decode steps", (5, 8, 11, 14, 17), 4, Padding.RIGHT),
)


EVEN_BATCH = Case("batch of 3 texts of 11 tokens, 4 decode steps", (11, 11, 11), 4)
"""What stands for the padded batches where a graph takes no padding."""


def decoder_cases(config: ModelConfig) -> tuple[Case, ...]:
    """Return the default cases for a decoder, which cross all of its switches that are within reach.

    Left out are those that would continue a KV cache beyond its limit: transformers' `generate()` never does.
    """
    limit = config.cache_limit
    crossing = (case for each in switches(config) if each.is_reached for case in _cross(each, limit))
    return tuple(case for case in (*DEFAULT_CASES, *crossing) if not outgrows_cache(case, limit))


def _cross(switch: Switch, cache_limit: int | None) -> Iterator[Case]:
    """Yield cases on both sides of a switch; they cross it with a KV cache if that stays valid."""
    place, tokens = f"the {switch.name} of {switch.tokens}", switch.tokens
    if not switch.keeps_cache:
        steps = min(16, tokens - 1)
        yield Case(f"{steps} decode steps after {tokens - steps} tokens, up to {place}", (tokens - steps,), steps)
        yield Case(f"8 decode steps after {tokens + 8} tokens, beyond {place}", (tokens + 8,), 8)
        return
    # a cache that began within the limit ends there
    first = cache_limit + 1 if cache_limit is not None and cache_limit < tokens else 1
    near, before = max(first, tokens - 4), max(first, tokens - 8)
    yield Case(f"prefill of {tokens + 8} tokens, across {place}", (tokens + 8,))
    yield Case(f"8 decode steps after {near} tokens, across {place}", (near,), 8)
    yield Case(f"chunks of 5 and 7 tokens after {before}, across {place}", (before,), 1, chunks=(5, 7))


def outgrows_cache(case: Case, cache_limit: int | None) -> bool:
    """Return whether a case continues a KV cache beyond its limit."""
    return cache_limit is not None and max(case.prompt_lengths) <= cache_limit < case.longest_text


def cases_within(
    cases: Iterable[Case],
    max_context: int,
    *,
    max_batch: int | None = None,
    one_at_a_time: bool = False,
    takes_padding: bool = True,
    logits: Logits = Logits.ALL,
) -> tuple[Case, ...]:
    """Return the cases that fit a graph.

    Args:
        cases: The cases to choose from.
        max_context: Maximum number of tokens of a text.
        max_batch: The largest batch, or None for any.
        one_at_a_time: Whether the graph accepts only single tokens after the prompt.
        takes_padding: Whether texts of a batch may be padded.
        logits: Tokens whose logits the graph computes: the last one must be real.
    """
    if logits is Logits.LAST:
        cases = (case for case in cases if case.padding is Padding.LEFT)
    fitting = (case for case in cases if takes_padding or len(set(case.prompt_lengths)) == 1)
    fitting = (case for case in fitting if case.longest_text <= max_context)
    fitting = (case for case in fitting if max_batch is None or len(case.prompt_lengths) <= max_batch)
    return tuple(case for case in fitting if not (one_at_a_time and case.chunks))


def replay(case: Case, pool: Integers, forward: Forward[Cache], *, logits: Logits = Logits.ALL) -> Floats:
    """Run a case through a decoder: one call with the prompts, and further calls with the KV cache.

    Args:
        case: The case to run.
        pool: Token ids to draw from.
        forward: The decoder.
        logits: Tokens of each call whose logits are compared; those of the last one if the decoder returns no others.

    Returns:
        The logits at real positions, float64 [positions, vocabulary]; without padded positions, and with at most
        `COMPARED_POSITIONS` positions per call and row.
    """
    tokens_bs = draw_tokens(case, pool)
    longest = max(case.prompt_lengths)
    mask_bs = np.ones_like(tokens_bs)
    for row, length in enumerate(case.prompt_lengths):
        padded = slice(longest - length) if case.padding is Padding.LEFT else slice(length, longest)
        mask_bs[row, padded] = 0
    # positions count real tokens only; those of padding are never compared
    positions_bs = np.maximum(mask_bs.cumsum(axis=1) - 1, 0)

    past: Cache | None = None
    collected, start = [], 0
    for count in case.calls:
        end = start + count
        logits_bsv, past = forward(tokens_bs[:, start:end], mask_bs[:, :end], positions_bs[:, start:end], past)
        first = 0 if logits is Logits.ALL else count - 1
        places = np.linspace(first, count - 1, min(count - first, COMPARED_POSITIONS)).round().astype(int)
        compared = places - count  # from the end, where the last logits of every decoder are
        real = mask_bs[:, start:end][:, compared] == 1
        collected.append(logits_bsv[:, compared][real].astype(np.float64))
        start = end
    return np.concatenate(collected)


def draw_tokens(case: Case, pool: Integers) -> Integers:
    """Return token ids for a case, [batch, tokens of all calls]."""
    return draw_rows(pool, len(case.prompt_lengths), sum(case.calls))
