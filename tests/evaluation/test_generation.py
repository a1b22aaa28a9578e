"""Greedy texts, and how much they repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import read_config
from amp_export.evaluation.decoders import ExportedDecoder, TorchDecoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.generation import describe, write_texts


@pytest.mark.parametrize(
    ("token_ids", "distinct", "repeated"),
    [
        ([1, 2, 3, 4, 5], 1.0, 0.0),
        ([1, 1, 1, 1, 1, 1], 1 / 5, 2 / 3),
        ([1, 2, 1, 2, 1], 2 / 4, 0.0),
        ([1, 2], 1.0, None),
        ([1], None, None),
        ([], None, None),
    ],
)
def test_repetition_is_counted(token_ids: list[int], distinct: float | None, repeated: float | None) -> None:
    text = describe("p", "t", token_ids)
    assert text.distinct_bigrams == (None if distinct is None else pytest.approx(distinct))
    assert text.repeated_4grams == (None if repeated is None else pytest.approx(repeated))
    assert text.tokens == len(token_ids)


@given(st.lists(st.integers(0, 5), min_size=5, max_size=12))
def test_saying_it_again_is_more_repetition(token_ids: list[int]) -> None:
    once, twice = describe("p", "t", token_ids), describe("p", "t", token_ids * 2)
    assert twice.repeated_4grams > once.repeated_4grams
    assert twice.distinct_bigrams < once.distinct_bigrams


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> Encoder:
    return Encoder(load_tokenizer(tiny_llama), read_config(tiny_llama)[1])


def test_the_most_likely_tokens_are_written(tiny_llama: Path, encoder: Encoder) -> None:
    model = load_model(tiny_llama)
    model.generation_config.repetition_penalty = 5.0
    found = write_texts(TorchDecoder(model), encoder, ["Say: ", "b"], tokens=12)
    for text in found.texts:
        ids = encoder.encode(text.prompt)
        for _ in range(12):
            with torch.inference_mode():
                following = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if following == 2:
                break
            ids.append(following)
        assert text.text == encoder.decode(ids[len(encoder.encode(text.prompt)) :])
    assert found.tokens.value == sum(text.tokens for text in found.texts) / 2
    assert model.generation_config.repetition_penalty == 5.0, "what was set aside is put back"


class Parrot:
    """Writes its prompt again."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def continue_greedily(self, prompt: Sequence[int], tokens: int) -> list[int]:
        self.seen.append((len(prompt), tokens))
        return list(prompt)[:tokens]


def test_prompts_leave_room(encoder: Encoder) -> None:
    """The model takes 128 tokens, prompt and text together."""
    parrot, done = Parrot(), []
    found = write_texts(
        parrot, encoder, ["a" * 200, "bcd"], tokens=28, on_progress=lambda count, total: done.append((count, total))
    )
    assert parrot.seen == [(100, 28), (3, 28)]
    assert [text.text for text in found.texts] == ["a" * 28, "bcd"]
    assert done == [(1, 2), (2, 2)]
    write_texts(parrot, encoder, ["abc"], tokens=500)
    assert parrot.seen[-1] == (1, 127)
    # a text too short for 4-grams has no share of them
    assert found.repeated_4grams.count == 1
    assert found.distinct_bigrams.count == 2


def test_a_text_ends_at_the_token_that_ends_texts(tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    first = TorchDecoder(model).continue_greedily([5, 6, 7], 3)
    model.generation_config.eos_token_id = [first[1]]
    assert TorchDecoder(model).continue_greedily([5, 6, 7], 3) == first[: first.index(first[1])]


class Counting:
    """The runtime of an export: the next token is one more than the last."""

    calls = 0

    def forward(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Any = None, *, logits_to_keep: int
    ) -> tuple[Any, Any]:
        assert logits_to_keep == 1
        self.calls += 1
        return np.eye(101, dtype=np.float32)[(input_ids + 1) % 101], past


@given(prompt=st.integers(0, 80), tokens=st.integers(1, 12), most=st.integers(1, 15), end=st.integers(0, 100))
def test_an_export_writes_no_further_than_asked(prompt: int, tokens: int, most: int, end: int) -> None:
    runtime = Counting()
    found = ExportedDecoder(runtime, [end]).continue_greedily([prompt], tokens, stop=lambda ids: len(ids) >= most)
    following = list(range(prompt + 1, prompt + 1 + min(tokens, most)))
    assert found == (following[: following.index(end)] if end in following else following)
    assert runtime.calls == len(found) + (end in following)


def test_a_checkpoint_writes_no_further_than_asked(tiny_llama: Path) -> None:
    decoder = TorchDecoder(load_model(tiny_llama))
    written = decoder.continue_greedily([5, 6, 7], 9)
    assert len(written) == 9
    seen: list[list[int]] = []

    def stop(ids: Sequence[int]) -> bool:
        seen.append(list(ids))
        return len(ids) == 4

    assert decoder.continue_greedily([5, 6, 7], 9, stop=stop) == written[:4]
    assert seen == [written[:length] for length in range(1, 5)]
