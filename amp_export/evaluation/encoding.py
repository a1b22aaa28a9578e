"""Texts as token ids, in the way of the LM Evaluation Harness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.errors import TaskError
from amp_export.evaluation.loglikelihood import Request
from amp_export.inputs.batches import check_vocabulary, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from amp_export.architectures import ModelConfig


class Encoder:
    """A tokenizer, with the limits of its model.

    Args:
        tokenizer: The tokenizer.
        config: The model's config.
        max_context: Largest number of tokens that an export of the model takes, if that is less.

    Attributes:
        longest_text: Largest number of tokens that the model takes; None if there is no limit.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, *, max_context: int | None = None
    ) -> None:
        limits = [each for each in (config.longest_text, max_context) if each is not None]
        self.longest_text = min(limits, default=None)
        self._tokenizer = tokenizer
        self._config = config
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self._first: int | None = first
        self._first_text = "" if first is None else str(tokenizer.decode(first))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: The text.
            special: Whether to add the tokens with which the tokenizer begins and ends a text. A text that begins with
                such a token in writing gets no other.

        Raises:
            ModelError: The tokenizer fails, or produces ids outside the model's vocabulary.
        """
        # `tok_encode`, models/huggingface.py of lm-eval 0.4.13
        special = special and not (self._first_text and text.startswith(self._first_text))
        ids = encode(self._tokenizer, text, special=special)
        check_vocabulary([ids], self._config)
        return ids

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def encode_pair(self, context: str, continuation: str, *, place: str) -> Request:
        """Return a context and its continuation, which is scored.

        Both are tokenized together, and the context alone says how many tokens are the context's; spaces at its end are
        the continuation's. An empty context becomes the token that begins a text, or else the one that ends it. A text
        that is too long loses tokens at its beginning.

        Source: `TemplateLM._encode_pair` and `loglikelihood` in api/model.py, `_loglikelihood_tokens` in
        models/huggingface.py of lm-eval 0.4.13.

        Args:
            context: The context.
            continuation: What follows it.
            place: File and line, for an error.

        Raises:
            TaskError: The continuation has no token of its own, or is longer than what the model takes; or the context
                is empty, and the tokenizer has no token to put there.
            ModelError: See `encode`.
        """
        given = context.rstrip()
        continuation = context[len(given) :] + continuation
        if given:
            ids, known = self.encode(given + continuation), len(self.encode(given))
        else:
            ids, known = self._begin(self.encode(continuation, special=False), place), 1
        scored = len(ids) - known
        if scored < 1 or known < 1:
            raise TaskError(
                f"{place}: {continuation[:40]!r} adds no token to its context.\nGive a continuation that the tokenizer "
                "keeps apart, such as one that begins with a space."
            )
        limit = self.longest_text
        if limit is not None and scored > limit:
            raise TaskError(f"{place}: a continuation has {scored} tokens, but the model takes {limit}.\nShorten it.")
        return Request(ids if limit is None else ids[-(limit + 1) :], scored)

    def first_token(self, place: str) -> int:
        """Return the token that stands before a text without a context: the one that begins a text, or that ends it.

        Args:
            place: File and line, for an error.

        Raises:
            TaskError: The tokenizer has no such token.
        """
        if self._first is None:
            raise TaskError(
                f"{place}: the context is empty, and the tokenizer has no token that begins or ends a text.\nGive a "
                "context."
            )
        return self._first

    def _begin(self, ids: list[int], place: str) -> list[int]:
        """Return a text with a token before it, unless it begins with that token."""
        first = self.first_token(place)
        return ids if ids[:1] == [first] else [first, *ids]
