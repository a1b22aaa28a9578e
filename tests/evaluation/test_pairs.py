"""Statistics: against formulas by hand, and by simulation of what an interval promises."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.evaluation.estimates import Estimate, average, t_quantile
from amp_export.evaluation.pairs import (
    Change,
    accuracy_difference,
    average_difference,
    mean_difference,
    perplexity_difference,
)

NUMBERS = st.floats(-1e3, 1e3)


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_a_mean_has_the_usual_standard_error(values: list[float]) -> None:
    found = Estimate.of(values)
    assert found.value == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert found.stderr == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)
    assert found.count == len(values)


def test_a_single_observation_has_none() -> None:
    assert Estimate.of([3.0]) == Estimate(3.0, None, 1)
    difference = mean_difference([1.0], [5.0])
    assert (difference.value, difference.interval) == (-4.0, (-math.inf, math.inf))
    assert difference.change is Change.NONE
    assert average([Estimate(1.0, None, 1), Estimate(2.0, 0.5, 3)]) == Estimate(1.5, None, 4)
    widest = average_difference([difference, mean_difference([1.0, 2.0], [1.0, 1.9])])
    assert widest.change is Change.NONE


def test_the_average_of_tasks_adds_variances() -> None:
    found = average([Estimate(0.5, 0.03, 100), Estimate(0.7, 0.04, 200)])
    assert (found.value, found.stderr, found.count) == (pytest.approx(0.6), pytest.approx(0.025), 300)


def covered(low: float, high: float, truth: float) -> bool:
    return low <= truth <= high


POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20)


@given(POINTS)
def test_points_are_compared_as_numbers(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip((0.5, 0.25), *pairs, strict=True)
    found = accuracy_difference(ours, theirs)
    assert found.difference == mean_difference(ours, theirs)
    assert found.gained == sum(one > other for one, other in zip(ours, theirs, strict=True))
    assert found.lost == sum(one < other for one, other in zip(ours, theirs, strict=True))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_answers_compare_the_same_as_numbers(pairs: list[tuple[bool, bool]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    assert accuracy_difference(ours, theirs) == accuracy_difference([*map(float, ours)], [*map(float, theirs)])


@pytest.mark.parametrize(
    ("count", "gained", "lost", "inside", "claimed"),
    [
        (100, 0.05, 0.15, (0.93, 0.97), (0.5, 0.7)),
        (400, 0.1, 0.1, (0.93, 0.97), (0.03, 0.07)),
        # so few items differ that the interval is wider than it has to be
        (40, 0.02, 0.05, (0.95, 1.0), (0.0, 0.05)),
    ],
)
def test_intervals_of_accuracies_contain_the_truth_in_95_of_100_cases(
    count: int, gained: float, lost: float, inside: tuple[float, float], claimed: tuple[float, float]
) -> None:
    """Shares of 1,500 draws. Without pairs, 22 % of the first case would be claimed."""
    random, within, claims = np.random.default_rng(0), 0, 0
    for _ in range(1500):
        drawn = random.random(count)
        only_this, only_other = drawn < gained, (drawn >= gained) & (drawn < gained + lost)
        both = (drawn >= gained + lost) & (drawn < 0.7)
        found = accuracy_difference((only_this | both).tolist(), (only_other | both).tolist())
        assert (found.gained, found.lost) == (only_this.sum(), only_other.sum())
        within += covered(*found.difference.interval, gained - lost)
        claims += found.difference.change is not Change.NONE
    assert inside[0] <= within / 1500 <= inside[1], within / 1500
    assert claimed[0] <= claims / 1500 <= claimed[1], claims / 1500


def test_a_handful_of_items_proves_nothing() -> None:
    """McNemar's exact test of five items that all changed in the same way has p = 0.0625, of seven 0.016."""
    for count, change in ((2, Change.NONE), (4, Change.NONE), (7, Change.HIGHER)):
        found = accuracy_difference([True] * count, [False] * count)
        assert found.difference.value == 1.0
        assert found.difference.change is change, count
        assert found.difference.interval[1] <= 1.0
    same = accuracy_difference([True, False] * 10, [True, False] * 10)
    assert (same.gained, same.lost, same.difference.change) == (0, 0, Change.NONE)


def test_intervals_of_perplexities_contain_the_truth_in_95_of_100_cases() -> None:
    """Windows differ far more from one another than the models do, and have unlike numbers of tokens."""
    random, inside, apart = np.random.default_rng(1), 0, 0
    for _ in range(1500):
        tokens = np.array([64] + [32] * 18 + [5])
        shared = random.normal(3.0, 0.5, len(tokens))
        other, ours = (tokens * (shared + random.normal(mean, 0.1, len(tokens))) for mean in (0.0, 0.2))
        found = perplexity_difference(ours.tolist(), other.tolist(), tokens.tolist())
        inside += covered(*found.interval, math.exp(0.2))
        apart += found.difference.change is Change.HIGHER
        assert found.ratio == pytest.approx(math.exp(found.difference.value))
        assert found.difference.value == pytest.approx((ours.sum() - other.sum()) / tokens.sum())
    assert 0.92 <= inside / 1500 <= 0.98
    assert apart / 1500 > 0.95, "found in pairs; the standard error of each perplexity alone is 12 %"


def test_a_ratio_beyond_all_numbers_is_infinite() -> None:
    found = perplexity_difference([1e6, 1e6], [0.0, 1.0], [1, 1])
    assert (found.ratio, found.interval) == (math.inf, (pytest.approx(math.inf), math.inf))


def test_quantiles_are_students() -> None:
    """Source: any table of Student's t distribution."""
    assert [t_quantile(degrees) for degrees in (1, 10, 100)] == pytest.approx([12.706, 2.228, 1.984], abs=1e-3)
