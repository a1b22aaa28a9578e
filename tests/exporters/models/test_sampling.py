"""Choosing tokens: the same distributions as transformers' processors, and reproducible draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as processors

from amp_export.errors import RequestError
from amp_export.exporters.models.sampling import Sampling, TokenChooser, penalize, probabilities

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.1, 3.0),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0.05, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
)


def draw_logits(seed: int, *shape: int) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(np.float32)


def by_transformers(logits_bv: Any, sampling: Sampling) -> Any:
    """Returns the probabilities of the processors that `generate` builds, in its order."""
    chain: list[Any] = [processors.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k is not None:
        chain.append(processors.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1:
        chain.append(processors.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        chain.append(processors.MinPLogitsWarper(sampling.min_p))
    scores_bv = torch.from_numpy(logits_bv).double()
    for each in chain:
        scores_bv = each(None, scores_bv)
    return scores_bv.softmax(dim=-1).numpy()


@given(seed=st.integers(0, 10_000), sampling=SAMPLINGS)
def test_probabilities_are_those_of_transformers(seed: int, sampling: Sampling) -> None:
    logits_bv = draw_logits(seed, 2, 30)
    found_bv = probabilities(logits_bv, sampling)
    np.testing.assert_allclose(found_bv, by_transformers(logits_bv, sampling), atol=1e-9)
    np.testing.assert_allclose(found_bv.sum(axis=1), 1.0)


@given(seed=st.integers(0, 10_000), penalty=st.floats(0.5, 2.0), text=st.lists(st.integers(0, 29), min_size=1))
def test_the_penalty_is_that_of_transformers(seed: int, penalty: float, text: list[int]) -> None:
    logits_1v = draw_logits(seed, 1, 30)
    before = logits_1v.copy()
    expected = processors.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([text]), torch.from_numpy(logits_1v))
    np.testing.assert_allclose(penalize(logits_1v, [text], penalty), expected.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(logits_1v, before)


@given(seed=st.integers(0, 10_000), sampling=SAMPLINGS)
def test_what_is_cut_off_is_never_drawn(seed: int, sampling: Sampling) -> None:
    logits_bv = draw_logits(seed, 4, 30)
    chosen_b = TokenChooser(sampling, range(4)).choose(logits_bv, [[]] * 4)
    assert (np.take_along_axis(probabilities(logits_bv, sampling), chosen_b[:, None], axis=1) > 0).all()


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    sampling = Sampling(temperature=1.3, top_k=6, min_p=0.02)
    logits_1v = draw_logits(3, 1, 20)
    expected_v = probabilities(logits_1v, sampling)[0]
    chooser, draws = TokenChooser(sampling, [0]), 20_000
    found_v = np.bincount([int(chooser.choose(logits_1v, [[]])[0]) for _ in range(draws)], minlength=20) / draws
    # four standard errors
    assert (np.abs(found_v - expected_v) <= 4 * np.sqrt(expected_v * (1 - expected_v) / draws)).all()


def test_what_is_drawn_for_a_text_depends_on_the_seed_and_its_number_alone() -> None:
    logits_bv = np.repeat(draw_logits(1, 1, 50), 3, axis=0)

    def draw(*, seed: int, texts: int, first: int = 0) -> Any:
        chooser = TokenChooser(Sampling(temperature=2.0, seed=seed), range(first, first + texts))
        return np.array([chooser.choose(logits_bv[:texts], [[]] * texts) for _ in range(20)])

    together = draw(seed=0, texts=3)
    np.testing.assert_array_equal(together[:, :1], draw(seed=0, texts=1))
    np.testing.assert_array_equal(together[:, 1:], draw(seed=0, texts=2, first=1))
    assert (together[:, 0] != together[:, 1]).any()
    assert (together != draw(seed=1, texts=3)).any()


def test_a_temperature_of_0_takes_the_most_likely_token() -> None:
    logits_bv = draw_logits(0, 5, 30)
    np.testing.assert_array_equal(
        TokenChooser(Sampling(), range(5)).choose(logits_bv, [[]] * 5), logits_bv.argmax(axis=1)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1.0}, "temperature is -1.0.\nGive a number at least 0"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 1.0, "min_p": 2.0}, "min_p is 2.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"top_p": 0.9}, "top_p is for tokens that are drawn, but temperature is 0"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Sampling(**options)
