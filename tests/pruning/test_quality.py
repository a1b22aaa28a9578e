"""What pruning cost: the pruned model's predictions against the dense one's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from amp_export.architectures import Kind, find_architecture, supported_model_types
from amp_export.checkpoints.loading import load_model
from amp_export.parity.metrics import agree
from amp_export.pruning import quality
from amp_export.pruning.quality import Quality, compare, run_dense
from tests.support.tiny_models import save_tiny_model

DECODERS = [name for name in supported_model_types() if find_architecture(name).kind is Kind.DECODER]

TEXTS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1], [1, 6], [5, 5, 5, 5, 5], [9]]
"""Of unlike lengths, so that most are padded, and one in which nothing is predicted."""

Measured = Callable[[PreTrainedModel, PreTrainedModel, Sequence[Sequence[int]]], Quality]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    def measure(dense: PreTrainedModel, pruned: PreTrainedModel, texts: Sequence[Sequence[int]]) -> Quality:
        run = run_dense(dense, texts, tmp_path)
        assert run is not None
        return compare(pruned, run, text="a few texts")

    return measure


@pytest.fixture(scope="module")
def dense(tiny_llama: Path) -> PreTrainedModel:
    return load_model(tiny_llama)


@pytest.fixture(scope="module")
def other(dense: PreTrainedModel) -> PreTrainedModel:
    """The same with other layers; what makes logits of hidden states is what pruning leaves alone too."""
    model = copy.deepcopy(dense)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.neg_()
    return model


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_model_is_as_good_as_itself(model_type: str, tmp_path: Path, measured: Measured) -> None:
    """In every family the logits that are made again of hidden states are those that the dense model gave."""
    model = load_model(save_tiny_model(tmp_path / "model", model_type, num_hidden_layers=1))
    found = measured(model, model, TEXTS)
    assert found.kl == pytest.approx(0, abs=1e-9)
    assert found.top1_agreement == 1
    assert found.pruned == pytest.approx(found.dense, rel=1e-6)
    assert found.dense > 1


def test_numbers_are_those_of_the_logits(dense: PreTrainedModel, other: PreTrainedModel, measured: Measured) -> None:
    (text,) = texts = [TEXTS[0]]
    found = measured(dense, other, texts)
    with torch.inference_mode():
        logits = [model(torch.tensor(texts)).logits[0, :-1].double().numpy() for model in (other, dense)]
    expected = agree(logits[0], logits[1], tolerance=0.0, are_logits=True)
    assert found.kl == pytest.approx(expected.kl, rel=1e-5)
    assert found.top1_agreement == pytest.approx(expected.top1_agreement)
    probabilities = [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in logits]
    for perplexity, chosen in zip((found.pruned, found.dense), probabilities, strict=True):
        likelihoods = [chosen[place, token] for place, token in enumerate(text[1:])]
        assert perplexity == pytest.approx(math.exp(-np.log(likelihoods).mean()), rel=1e-5)
    assert found.kl > 0.1
    assert found.top1_agreement < 1


class Table(torch.nn.Module):
    """A bigram model: what follows a token depends on it alone."""

    def __init__(self, probabilities: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.states = torch.nn.Embedding.from_pretrained(torch.tensor(probabilities).log())
        self.projection = torch.nn.Identity()

    @property
    def device(self) -> torch.device:
        return self.states.weight.device

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.projection

    def forward(self, input_ids: torch.Tensor, **_: object) -> Table:
        self.logits = self.projection(self.states(input_ids))
        return self


def test_numbers_are_what_can_be_computed_by_hand(measured: Measured) -> None:
    dense = Table([[0.5, 0.5], [0.75, 0.25]])
    pruned = Table([[0.5, 0.5], [0.25, 0.75]])
    # the text gives 0 and 1 each once to predict from: after 0 both models say the same
    found = measured(dense, pruned, [[0, 1, 0]])
    assert found.kl == pytest.approx((0 + 0.75 * math.log(3) + 0.25 * math.log(1 / 3)) / 2)
    assert found.top1_agreement == 0.5
    assert found.dense == pytest.approx((0.5 * 0.75) ** -0.5)
    assert found.pruned == pytest.approx((0.5 * 0.25) ** -0.5)


def test_padding_changes_nothing(
    dense: PreTrainedModel, other: PreTrainedModel, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = measured(dense, other, TEXTS)
    monkeypatch.setattr(quality, "BATCH_TOKENS", 1)
    one_by_one = measured(dense, other, TEXTS)
    monkeypatch.setattr(quality, "CHUNK_TOKENS", 1)
    for found in (one_by_one, measured(dense, other, TEXTS)):
        assert found.kl == pytest.approx(together.kl, rel=1e-5)
        assert found.top1_agreement == together.top1_agreement
        assert (found.dense, found.pruned) == pytest.approx((together.dense, together.pruned), rel=1e-5)


def test_half_precision_is_kept_as_it_is(dense: PreTrainedModel, measured: Measured) -> None:
    model = copy.deepcopy(dense).bfloat16()
    found = measured(model, model, TEXTS)
    assert found.kl == pytest.approx(0, abs=1e-4)
    assert found.top1_agreement == 1


def test_what_is_no_number_stays_none(dense: PreTrainedModel, other: PreTrainedModel, measured: Measured) -> None:
    broken = copy.deepcopy(other)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    found = measured(dense, broken, TEXTS)
    assert math.isnan(found.kl)
    assert math.isnan(found.pruned)


def test_texts_of_one_token_predict_nothing(dense: PreTrainedModel, tmp_path: Path) -> None:
    assert run_dense(dense, [[3], []], tmp_path) is None
    assert list(tmp_path.iterdir()) == []
