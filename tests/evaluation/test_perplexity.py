"""Perplexity by windows: each token is scored once, with what precedes it in its window."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import read_config
from amp_export.errors import RequestError, TaskError
from amp_export.evaluation.decoders import TorchDecoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.perplexity import choose_window, cut, measure_perplexity, read_text_file

TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps until the evening."


@given(st.integers(0, 60), st.integers(2, 20), st.data())
def test_windows_score_each_token_once(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    requests = cut(range(length), window, stride)
    scored = [token for each in requests for token in each.token_ids[-each.scored :]]
    # where windows do not overlap, nothing precedes the first token of each
    unseen = set(range(0, length, stride)) if stride == window else {0}
    assert scored == [token for token in range(length) if token not in unseen]
    for each in requests:
        assert len(each.token_ids) <= window
        assert list(each.token_ids) == list(range(each.token_ids[0], each.token_ids[0] + len(each.token_ids)))
    # tokens beyond the first window have at least the overlap as context
    assert all(len(each.token_ids) - each.scored >= window - stride for each in requests[1:])


@pytest.mark.parametrize(("window", "stride"), [(16, 5), (16, 16), (128, 64)])
def test_perplexity_is_that_of_the_logits(window: int, stride: int, tiny_llama: Path) -> None:
    model, tokenizer = load_model(tiny_llama), load_tokenizer(tiny_llama)
    encoder = Encoder(tokenizer, read_config(tiny_llama)[1])
    found = measure_perplexity(TorchDecoder(model), encoder, TEXT, window=window, stride=stride)
    ids, losses, end_before = tokenizer(TEXT).input_ids, [], 0
    # as in the documentation of transformers: labels of -100 are not scored, and the loss is a mean
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids))
        input_ids = torch.tensor([ids[start:end]])
        labels = input_ids.clone()
        labels[:, : end_before - start] = -100
        counted = int((labels[:, 1:] != -100).sum())
        with torch.inference_mode():
            losses.append((model(input_ids, labels=labels).loss.item() * counted, counted))
        end_before = end
        if end == len(ids):
            break
    assert found.tokens == tuple(count for _, count in losses)
    assert found.losses == pytest.approx([loss for loss, _ in losses], rel=1e-4)
    mean = sum(loss for loss, _ in losses) / sum(count for _, count in losses)
    assert found.perplexity == pytest.approx(math.exp(mean), rel=1e-4)
    assert (found.stderr is None) == (len(losses) == 1)
    if len(losses) > 1:
        some = measure_perplexity(TorchDecoder(model), encoder, TEXT, window=window, stride=stride, limit=2)
        assert some.losses == pytest.approx(found.losses[:2], rel=1e-5)


def test_a_single_token_predicts_nothing(tiny_llama: Path) -> None:
    encoder = Encoder(load_tokenizer(tiny_llama), read_config(tiny_llama)[1])
    with pytest.raises(TaskError, match="a single token"):
        measure_perplexity(TorchDecoder(load_model(tiny_llama)), encoder, "a", window=4, stride=2)


def test_windows_are_chosen_by_the_model() -> None:
    assert choose_window(None, None, None) == (1024, 512)
    assert choose_window(None, None, 128) == (128, 64)
    assert choose_window(64, 64, 128) == (64, 64)
    with pytest.raises(RequestError, match="--window is 256, but the model takes 128 tokens"):
        choose_window(256, None, 128)
    for window, stride in ((1, None), (8, 9), (8, 0)):
        with pytest.raises(RequestError, match="Give a stride from 1 to the window"):
            choose_window(window, stride, 128)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"a\nb\xff", "line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", b"{}", "--tasks "),
        ("absent.txt", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_text_is_named(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError) as refused:
        read_text_file(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert said in str(refused.value)
