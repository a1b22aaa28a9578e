"""Windows of text: token ids of one length, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig

Item = TypeVar("Item")

WINDOW_TOKENS = 512
"""Tokens of a window, unless the model's longest text is shorter."""


def window_length(config: ModelConfig) -> int:
    """Return the tokens of a window for a model."""
    return min(WINDOW_TOKENS, config.longest_text or WINDOW_TOKENS)


def cut_windows(token_ids: Sequence[Sequence[int]], length: int, *, limit: int | None = None) -> list[list[int]]:
    """Join texts, cut them into windows, and return these, or as many as asked for, spread evenly.

    Args:
        token_ids: Texts; the end of the last that fills no window is left out.
        length: Tokens of a window.
        limit: Largest number of windows.
    """
    joined = [token for text in token_ids for token in text]
    starts = list(range(0, len(joined) - length + 1, length))
    return [joined[start : start + length] for start in spread(starts, limit)]


def spread_within(items: Sequence[Item], tokens: int, *, size: Callable[[Item], int]) -> list[Item]:
    """Return as many of the items as have about so many tokens, spread evenly, but at least one.

    Args:
        items: Texts or batches.
        tokens: Number of tokens; all items are returned if they have no more.
        size: Returns the tokens of an item.
    """
    return spread(items, max(tokens * len(items) // max(sum(map(size, items)), 1), 1))


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return at most `limit` of the items, spread evenly over all; their order is kept."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]
