"""Texts, piece by piece: the pieces are the text, whole characters, up to a string to stop at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import RequestError
from amp_export.exporters.models.decoder import Decoder
from amp_export.generation.texts import Ending, Prompt, Rules, TextStream, generate_texts


class ByteTokenizer:
    """A tokenizer with a token for each byte; 256 is special."""

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class SpacedTokenizer:
    """A tokenizer of words that drops the space at the beginning of a text, like SentencePiece."""

    words = ("▁a", "▁cat", "s", "▁sat")

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        del skip_special_tokens
        return "".join(self.words[token] for token in tokens).replace("▁", " ").removeprefix(" ")


class Script(Decoder):
    """A decoder that writes given texts, one after the other in a batch."""

    def __init__(self, *texts: Sequence[int], max_batch: int | None = None) -> None:
        self.texts = list(texts)
        self.batches: list[int] = []
        self.description = "a script"
        self.max_batch = max_batch
        self._place = self._first = 0

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Any = None, **_: Any) -> Any:
        import numpy as np

        del attention_mask, position_ids
        if past is None:
            self._first += self.batches[-1] if self.batches else 0
            self.batches.append(len(input_ids))
            self._place = 0
        logits_b1v = np.zeros((len(input_ids), 1, 300), np.float32)
        for row in range(len(input_ids)):
            text = self.texts[self._first + row]
            logits_b1v[row, 0, text[self._place] if self._place < len(text) else 299] = 1
        self._place += 1
        return logits_b1v, "past"

    def close(self) -> None:
        """Nothing to free."""


def steps(tokens: Sequence[int]) -> Iterator[Sequence[int]]:
    return (tokens[: size + 1] for size in range(len(tokens)))


@given(st.text(max_size=30), st.text(max_size=12))
def test_the_pieces_are_the_text_and_never_change(text: str, prompt: str) -> None:
    tokenizer: Any = ByteTokenizer()
    stream = TextStream(tokenizer, list(prompt.encode()))
    pieces = []
    for tokens in steps(list(text.encode())):
        pieces.append(stream.read(tokens))
        assert text.startswith(stream.text)
    pieces.append(stream.read(list(text.encode()), is_end=True))
    assert "".join(pieces) == stream.text == text


@given(st.text("ab€", max_size=20), st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_nothing_from_the_first_string_to_stop_at_is_shown(text: str, stop: list[str]) -> None:
    tokenizer: Any = ByteTokenizer()
    stream = TextStream(tokenizer, [256], stop)
    shown, tokens = "", list(text.encode())
    for each in steps(tokens):
        shown += stream.read(each)
        if stream.stopped:
            break
    else:
        shown += stream.read(tokens, is_end=True)
    # the first to be complete is the first that is seen; of those that are complete at once, the first to begin
    complete = [text.find(each) + len(each) for each in stop if each in text]
    read = text[: min(complete, default=0)]
    found = [read.find(each) for each in stop if each in read]
    assert shown == stream.text == (text[: min(found)] if found else text)
    assert stream.stopped is bool(found)


def test_a_character_that_is_not_complete_at_the_end_is_shown_as_such() -> None:
    tokenizer: Any = ByteTokenizer()
    stream = TextStream(tokenizer, [])
    assert stream.read([65, 0xE2]) == "A"
    assert stream.read([65, 0xE2], is_end=True) == "\ufffd"


def test_a_space_between_prompt_and_text_is_kept() -> None:
    tokenizer: Any = SpacedTokenizer()
    stream = TextStream(tokenizer, [0])
    assert [stream.read(each) for each in steps([1, 2, 3])] == [" cat", "s", " sat"]
    assert TextStream(tokenizer, []).read([1, 2]) == "cats"


def test_each_text_says_why_it_ended() -> None:
    tokenizer: Any = ByteTokenizer()
    decoder = Script(b"one, two", b"three. four", b"five six seven", b"a", max_batch=3)
    prompts = [Prompt(str(number), (number,)) for number in range(4)]
    rules = Rules(new_tokens=10, ends=frozenset({299}), stop=(".",), batch=8)
    pieces: list[tuple[int, str]] = []
    done: list[tuple[int, int]] = []
    found = generate_texts(
        decoder,
        tokenizer,
        prompts,
        rules,
        model="m",
        on_text=lambda number, piece: pieces.append((number, piece)),
        on_progress=lambda number, total: done.append((number, total)),
    )
    assert [(text.text, text.ending, text.tokens) for text in found.texts] == [
        ("one, two", Ending.END, 8),
        ("three", Ending.STOP, 6),
        ("five six s", Ending.LENGTH, 10),
        ("a", Ending.END, 1),
    ]
    assert [text.prompt for text in found.texts] == ["0", "1", "2", "3"]
    assert (decoder.batches, done) == ([3, 1], [(3, 4), (4, 4)])
    for number, text in enumerate(found.texts):
        assert "".join(piece for each, piece in pieces if each == number) == text.text
    # the first token of each text is of its prompt's call
    assert found.decode_tokens == 8 + 6 + 10 + 1 - 4
    assert found.prefill_seconds > 0
    assert found.tokens_per_second is not None


def test_without_padding_prompts_of_one_length_run_together() -> None:
    tokenizer: Any = ByteTokenizer()
    prompts = [Prompt(str(number), (0,) * length) for number, length in enumerate((1, 3, 1, 2, 1))]
    # in the order in which they run: those of 1 token, two at a time, of 3, of 2
    decoder = Script(b"a", b"c", b"e", b"b", b"d")
    decoder.takes_padding = False
    found = generate_texts(decoder, tokenizer, prompts, Rules(new_tokens=5, ends=frozenset({299}), batch=2), model="m")
    assert decoder.batches == [2, 1, 1, 1]
    assert [text.text for text in found.texts] == ["a", "b", "c", "d", "e"]


def test_a_text_that_ends_at_once_has_no_speed() -> None:
    tokenizer: Any = ByteTokenizer()
    rules = Rules(new_tokens=5, ends=frozenset({299}))
    found = generate_texts(Script(b""), tokenizer, [Prompt("0", (0,))], rules, model="m")
    assert (found.texts[0].text, found.texts[0].ending, found.decode_tokens) == ("", Ending.END, 0)
    assert found.tokens_per_second is None


def test_a_prompt_beyond_the_context_is_refused() -> None:
    tokenizer: Any = ByteTokenizer()
    with pytest.raises(RequestError, match=r"3 tokens and 5 new ones are 8 tokens, but the model takes 7"):
        generate_texts(Script(b""), tokenizer, [Prompt("0", (0, 1, 2))], Rules(new_tokens=5, context=7), model="m")
