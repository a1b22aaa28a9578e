"""Texts that a decoder writes after prompts, piece by piece, up to a token or a string that ends them."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.exporters.models.generation import GREEDY, check_length, generate
from amp_export.exporters.models.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from amp_export.exporters.models.decoder import Decoder
    from amp_export.progress import Advance

    OnText = Callable[[int, str], None]
    """Called with the number of a prompt and the next piece of its text."""

_BEFORE = 8
"""Tokens of the prompt that are decoded with the text: tokenizers drop a space where a text begins."""

_INCOMPLETE = "\ufffd"
"""What tokenizers write for a character of which bytes are missing."""


class Ending(enum.StrEnum):
    """Why a text ended."""

    END = "end"
    """The model generated a token that ends texts."""
    STOP = "stop"
    """It contains a string to stop at."""
    LENGTH = "length"
    """It is as long as was asked for."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules by which texts are generated.

    Attributes:
        new_tokens: Largest number of tokens of a text.
        ends: Tokens that end a text.
        stop: Strings that end a text, which are not part of it.
        sampling: How tokens are chosen.
        batch: Largest number of prompts that are run together.
        context: Largest number of tokens that the model takes, prompt included; None if there is no limit.
    """

    new_tokens: int
    ends: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    batch: int = 1
    context: int | None = None


@dataclass(frozen=True)
class Prompt:
    """What a text follows.

    Attributes:
        text: As it was given.
        token_ids: Its token ids, in the chat template if that is asked for.
    """

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class GeneratedText:
    """A text that a model generated.

    Attributes:
        prompt: What it follows.
        text: The text.
        prompt_tokens: Number of tokens of the prompt.
        tokens: Number of tokens that were generated.
        ending: Why it ended.
    """

    prompt: str
    text: str
    prompt_tokens: int
    tokens: int
    ending: Ending


@dataclass(frozen=True)
class GeneratedTexts:
    """The texts of one model, and how long they took.

    Attributes:
        model: Its name.
        runtime: Name and version of what ran it.
        texts: A text for each prompt.
        prefill_seconds: Time to the first tokens, of all batches together.
        decode_seconds: Time of all further tokens.
        decode_tokens: Number of those.
    """

    model: str
    runtime: str
    texts: tuple[GeneratedText, ...]
    prefill_seconds: float
    decode_seconds: float
    decode_tokens: int

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first ones in a second, of all texts of a batch together; None if there are none."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens and self.decode_seconds else None


class TextStream:
    """The text of the tokens that are given to it.

    Args:
        tokenizer: The tokenizer.
        prompt: Token ids of the prompt that the text follows.
        stop: Strings that end the text.

    Attributes:
        text: The text that is certain: no further token changes it, and it contains no string to stop at.
        stopped: Whether a string to stop at was found; the text ends before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._before = list(prompt[-_BEFORE:])
        self._known = self._decode([])

    def read(self, tokens: Sequence[int], *, is_end: bool = False) -> str:
        """Return the piece by which the certain text grows.

        Args:
            tokens: All tokens of the text so far.
            is_end: Whether these are all.
        """
        if self.stopped:
            return ""
        whole = self._decode(tokens)
        text = whole.removeprefix(self._known) if whole.startswith(self._known) else self._tokenizer_text(tokens)
        if (end := min((place for each in self._stop if (place := text.find(each)) >= 0), default=None)) is not None:
            text, self.stopped = text[:end], True
        elif not is_end:
            text = text.rstrip(_INCOMPLETE)
            text = text[: len(text) - max((_overlap(text, each) for each in self._stop), default=0)]
        piece = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += piece
        return piece

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer_text([*self._before, *tokens])

    def _tokenizer_text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text that is a beginning of a string, but not all of it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def generate_texts(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    rules: Rules,
    *,
    model: str,
    on_text: OnText | None = None,
    on_progress: Advance | None = None,
) -> GeneratedTexts:
    """Generate a text after each prompt.

    Args:
        decoder: The decoder.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        rules: How texts are generated.
        model: Name of the model, for the result.
        on_text: Called with each piece of a text as soon as it is certain.
        on_progress: Called with the number of texts done, and with all.

    Raises:
        RequestError: A prompt has no tokens, or is too long for the model.
    """
    check_length([prompt.token_ids for prompt in prompts], rules.new_tokens, rules.context)
    done: list[_Batch] = []
    for numbers in _divide(decoder, [len(prompt.token_ids) for prompt in prompts], rules.batch):
        batch = _Batch(tokenizer, {number: prompts[number] for number in numbers}, rules, on_text)
        batch.run(decoder)
        done.append(batch)
        if on_progress is not None:
            on_progress(sum(len(each.prompts) for each in done), len(prompts))
    texts = {number: text for batch in done for number, text in zip(batch.prompts, batch.texts, strict=True)}
    return GeneratedTexts(
        model,
        decoder.description,
        tuple(texts[number] for number in range(len(prompts))),
        prefill_seconds=sum(batch.prefill_seconds for batch in done),
        decode_seconds=sum(batch.decode_seconds for batch in done),
        decode_tokens=sum(batch.decode_tokens for batch in done),
    )


def _divide(decoder: Decoder, lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Return the numbers of the prompts to run together: in their order, or of one length if there is no padding."""
    size = min(batch, decoder.max_batch or batch)
    groups: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        groups.setdefault(0 if decoder.takes_padding else length, []).append(number)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


class _Batch:
    """Texts that are generated together."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Mapping[int, Prompt],
        rules: Rules,
        on_text: OnText | None,
    ) -> None:
        self.prompts = prompts
        self.prefill_seconds = self.decode_seconds = 0.0
        self.decode_tokens = 0
        self._rules = rules
        self._on_text = on_text
        self._tokens: list[list[int]] = [[] for _ in prompts]
        self._streams = [TextStream(tokenizer, prompt.token_ids, rules.stop) for prompt in prompts.values()]
        self._numbers = list(prompts)

    def run(self, decoder: Decoder) -> None:
        """Generate the texts."""
        start = time.perf_counter()
        steps = generate(
            decoder,
            [prompt.token_ids for prompt in self.prompts.values()],
            new_tokens=self._rules.new_tokens,
            ends=self._rules.ends,
            sampling=self._rules.sampling,
            is_done=self._read,
            numbers=self._numbers,
        )
        next(steps, None)
        first = time.perf_counter()
        self.decode_tokens = sum(map(len, steps))
        self.prefill_seconds, self.decode_seconds = first - start, time.perf_counter() - first
        for row, tokens in enumerate(self._tokens):
            self._show(row, self._streams[row].read(tokens, is_end=True))

    @property
    def texts(self) -> Iterator[GeneratedText]:
        """The texts, as far as they are generated."""
        for prompt, tokens, stream in zip(self.prompts.values(), self._tokens, self._streams, strict=True):
            is_full = len(tokens) == self._rules.new_tokens
            ending = Ending.STOP if stream.stopped else Ending.LENGTH if is_full else Ending.END
            yield GeneratedText(prompt.text, stream.text, len(prompt.token_ids), len(tokens), ending)

    def _read(self, row: int, tokens: Sequence[int]) -> bool:
        """Take a new token, and return whether the text ends there."""
        self._tokens[row] = list(tokens)
        self._show(row, self._streams[row].read(tokens))
        return self._streams[row].stopped

    def _show(self, row: int, piece: str) -> None:
        if piece and self._on_text is not None:
            self._on_text(self._numbers[row], piece)
