"""Log-likelihoods: against logits by hand, in batches of any size, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from amp_export.architectures import Kind, find_architecture, supported_model_types
from amp_export.checkpoints.loading import load_model
from amp_export.evaluation.decoders import ExportedDecoder, TorchDecoder
from amp_export.evaluation.loglikelihood import Request, log_likelihoods, score
from amp_export.inputs.batches import group_by_length, pad_right
from tests.support.tiny_models import save_tiny_model

DECODERS = [name for name in supported_model_types() if find_architecture(name).kind is Kind.DECODER]

REQUESTS = [
    Request([3, 1, 4, 1, 5, 9, 2, 6], 3),
    Request([2, 7], 1),
    Request([1, 6, 5, 5, 5], 4),
    Request([8, 8, 8, 9], 1),
]
"""Of unlike lengths, so that most are padded."""


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> PreTrainedModel:
    return load_model(tiny_llama)


def by_hand(model: PreTrainedModel, request: Request) -> float:
    with torch.inference_mode():
        log_sv = model(torch.tensor([request.token_ids])).logits[0].double().log_softmax(dim=1)
    places = range(len(request.token_ids) - request.scored, len(request.token_ids))
    return sum(log_sv[place - 1, request.token_ids[place]].item() for place in places)


@pytest.mark.parametrize("model_type", DECODERS)
def test_every_family_gives_what_its_logits_say(model_type: str, tmp_path: Path) -> None:
    """What a family does to logits after its head applies to the places that are picked, too."""
    model = load_model(save_tiny_model(tmp_path / "model", model_type, num_hidden_layers=1))
    found = log_likelihoods(TorchDecoder(model), REQUESTS)
    assert found == pytest.approx([by_hand(model, request) for request in REQUESTS], rel=1e-4)
    assert len({round(each, 3) for each in found}) == len(REQUESTS)


TEXTS = st.lists(st.integers(0, 100), min_size=2, max_size=12)


@given(st.lists(TEXTS, min_size=1, max_size=7), st.data())
@settings(max_examples=25)
def test_batches_of_any_size_give_the_same(llama: PreTrainedModel, texts: list[list[int]], data: st.DataObject) -> None:
    requests = [Request(ids, data.draw(st.integers(1, len(ids) - 1))) for ids in texts]
    model = TorchDecoder(llama)
    alone = [log_likelihoods(model, [request])[0] for request in requests]
    size = data.draw(st.integers(1, 90))
    progress: list[tuple[int, int]] = []
    together = log_likelihoods(
        model, requests, batch_tokens=size, on_progress=lambda done, total: progress.append((done, total))
    )
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert progress[-1] == (len(requests), len(requests))


class Recorder:
    """A decoder that keeps what it was asked, and finds all tokens of its vocabulary as likely."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.places: list[int] = []

    def logits_at(self, input_ids_bs: torch.Tensor, mask_bs: torch.Tensor, places_p: torch.Tensor) -> torch.Tensor:
        assert mask_bs.flatten()[places_p].all(), "padding is not scored"
        self.sizes.append(input_ids_bs.numel())
        self.places.append(len(places_p))
        return torch.zeros(len(places_p), 10, dtype=torch.bfloat16)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 200))
def test_batches_keep_to_their_size_and_ask_only_for_what_is_scored(lengths: list[int], size: int) -> None:
    model = Recorder()
    requests = [Request([1] * length, length // 2) for length in lengths]
    found = log_likelihoods(model, requests, batch_tokens=size)
    assert sum(model.places) == sum(request.scored for request in requests)
    assert all(each <= max(size, max(lengths) - 1) for each in model.sizes)
    # also of logits in bfloat16, probabilities are computed in float32
    expected = [request.scored * -2.302585 for request in requests]
    assert found == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.integers(0, 50)), st.integers(1, 100))
def test_groups_hold_every_text_once_and_no_more_than_fits(lengths: list[int], size: int) -> None:
    groups = list(group_by_length(lengths, size))
    assert sorted(number for group in groups for number in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[number] for number in group) <= size


def test_what_nothing_precedes_cannot_be_scored() -> None:
    for scored in (0, 2, 3):
        with pytest.raises(AssertionError):
            Request([1, 2], scored)


@given(ids=TEXTS, length=st.integers(1, 4), changed=st.integers(-1, 3))
@settings(max_examples=25)
def test_a_text_is_greedy_if_the_model_would_write_it(
    llama: PreTrainedModel, ids: list[int], length: int, changed: int
) -> None:
    """One token that is not the most likely one is enough for no."""
    decoder = TorchDecoder(llama)
    written = decoder.continue_greedily(ids, length, stop=lambda _: False)
    if not written:
        return
    if is_changed := 0 <= changed < len(written):
        written[changed] = (written[changed] + 1) % 101
    other = Request([*ids, *written], len(written))
    (alone,) = score(decoder, [other])
    assert alone.is_greedy is not is_changed
    assert [each.is_greedy for each in score(decoder, [*REQUESTS, other])][-1] is alone.is_greedy


class Runtime:
    """A decoder of an export that takes few rows at once; a token's logits say where it is."""

    def __init__(self, max_batch: int | None) -> None:
        self.max_batch = max_batch

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Any = None) -> tuple[Any, Any]:
        assert self.max_batch is None or len(input_ids) <= self.max_batch
        assert input_ids.shape == attention_mask.shape == position_ids.shape
        return np.stack([input_ids, position_ids, attention_mask], axis=2).astype(np.float32), past


@given(st.lists(TEXTS, min_size=1, max_size=6), st.none() | st.integers(1, 4), st.data())
def test_an_export_gives_the_logits_of_each_place(
    texts: list[list[int]], max_batch: int | None, data: st.DataObject
) -> None:
    """In order, although the runtime may take the rows in several calls."""
    input_ids_bs, mask_bs = pad_right(texts)
    real = mask_bs.flatten().nonzero()[:, 0].tolist()
    places = sorted(data.draw(st.sets(st.sampled_from(real), min_size=1)))
    found = ExportedDecoder(Runtime(max_batch), []).logits_at(input_ids_bs, mask_bs, torch.tensor(places))
    length = input_ids_bs.shape[1]
    assert found.tolist() == [[input_ids_bs.flatten()[place], place % length, 1] for place in places]
