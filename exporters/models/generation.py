"""Generates texts with a decoder of any runtime: a batch of prompts, one token of each at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from amp_export.errors import RequestError
from amp_export.exporters.models.sampling import Sampling, TokenChooser

if TYPE_CHECKING:
    from amp_export.exporters.models.decoder import Decoder
    from amp_export.exporters.models.session import Floats, Integers

    Forward = Callable[[Integers, Integers, Integers, Any], tuple[Floats, Any]]

GREEDY = Sampling()
"""The most likely token, always."""


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    ends: Collection[int] = (),
    sampling: Sampling = GREEDY,
    is_done: Callable[[int, Sequence[int]], bool] | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[dict[int, int]]:
    """Yield the next tokens of texts, step after step, until all have ended.

    Shorter prompts are padded on the left. The KV cache stays in the runtime, and of each step only the logits of the
    last tokens are read.

    Args:
        decoder: The decoder, which takes a batch of this many texts.
        prompts: Token ids of each prompt, at least one.
        new_tokens: Largest number of tokens to generate after each.
        ends: Tokens that end a text; they are not yielded.
        sampling: How tokens are chosen.
        is_done: Called with a text's number and all its new tokens after each; whether the text ends there.
        numbers: A number of each text, which what is drawn for it depends on; by default its place.

    Yields:
        The new token of each text that goes on, by its number in `prompts`.

    Raises:
        RequestError: A prompt is empty, or with the new tokens longer than the decoder takes; or prompts differ in
            length, and the decoder takes no padding.
    """
    import numpy as np

    if not all(prompts):
        raise RequestError("A prompt has no tokens.\nGive at least a word.")
    if not decoder.takes_padding and len(lengths := {len(prompt) for prompt in prompts}) > 1:
        raise RequestError(
            f"The prompts of a batch have {min(lengths)} to {max(lengths)} tokens, but this graph takes no padding.\n"
            "Give those of one length together, or export with the operators of the standard: --operators standard."
        )
    check_length(prompts, new_tokens, decoder.max_context)
    texts = [list(prompt) for prompt in prompts]
    given = [len(prompt) for prompt in prompts]
    longest = max(given)
    new_bs, mask_bs = np.zeros((len(texts), longest), np.int64), np.zeros((len(texts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        new_bs[row, longest - len(prompt) :], mask_bs[row, longest - len(prompt) :] = prompt, 1
    # transformers' `generate` gives padding the position 1, but it is masked
    positions_bs = (mask_bs.cumsum(axis=1) - 1).clip(min=0)
    chooser = TokenChooser(sampling, numbers if numbers is not None else range(len(texts)))
    going, past = set(range(len(texts))), decoder.reserve(len(texts), longest + new_tokens)
    for _ in range(new_tokens):
        logits_bsv, past = decoder.forward(new_bs, mask_bs, positions_bs, past, logits_to_keep=1)
        chosen_b = chooser.choose(logits_bsv[:, -1], texts)
        going -= {row for row in going if int(chosen_b[row]) in ends}
        found = {row: int(chosen_b[row]) for row in sorted(going)}
        for row, token in found.items():
            texts[row].append(token)
        if found:
            yield found
        if is_done is not None:
            going -= {row for row in found if is_done(row, texts[row][given[row] :])}
        if not going:
            return
        new_bs, positions_bs = chosen_b[:, None], positions_bs[:, -1:] + 1
        mask_bs = np.concatenate([mask_bs, np.ones((len(texts), 1), np.int64)], axis=1)


def check_length(prompts: Sequence[Sequence[int]], new_tokens: int, context: int | None) -> None:
    """Refuse prompts that with the new tokens are longer than a decoder takes.

    Raises:
        RequestError: One is; the message says how many tokens there is room for.
    """
    longest = max(map(len, prompts))
    if context is not None and longest + new_tokens > context:
        room = context - longest
        advice = f"ask for at most {room} new tokens" if room > 0 else f"give prompts of less than {context} tokens"
        raise RequestError(
            f"A prompt of {longest} tokens and {new_tokens} new ones are {longest + new_tokens} tokens, but the model "
            f"takes {context}.\nShorten the prompt, or {advice}."
        )


def generate_greedily(forward: Forward, prompt_bs: Integers) -> Iterator[int]:
    """Yield the most likely tokens after a prompt, without end; each costs a call when it is asked for.

    Args:
        forward: A decoder's `forward`.
        prompt_bs: Token ids of the prompt, int64 [1, sequence].
    """
    import numpy as np

    new_bs, past, length = prompt_bs, None, 0
    while True:
        positions_bs = np.arange(length, length + new_bs.shape[1])[None]
        length += new_bs.shape[1]
        logits_bsv, past = forward(new_bs, np.ones((1, length), np.int64), positions_bs, past)
        token = int(logits_bsv[0, -1].argmax())
        yield token
        new_bs = np.array([[token]], np.int64)
