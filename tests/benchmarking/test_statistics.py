from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.benchmarking.statistics import Conclusion, PhaseResult, Timing, bootstrap_speedup, conclude

SECONDS = st.floats(1e-6, 1e3)
ROUNDS = st.integers(1, 5).flatmap(
    lambda samples: st.lists(st.lists(SECONDS, min_size=samples, max_size=samples), min_size=2, max_size=12)
)


def noisy(seed: int, *, seconds: float, rounds: int = 20, samples: int = 4, spread: float = 0.05) -> list[list[float]]:
    generator = np.random.default_rng(seed)
    times: list[list[float]] = (seconds * generator.lognormal(sigma=spread, size=(rounds, samples))).tolist()
    return times


@given(rounds=ROUNDS)
def test_percentiles_are_ordered_and_within_the_samples(rounds: list[list[float]]) -> None:
    timing = Timing.of(rounds)
    flat = [sample for samples in rounds for sample in samples]
    assert min(flat) <= timing.median <= timing.p90 <= timing.p99 <= max(flat)
    assert timing.samples == tuple(map(tuple, rounds))


def test_statistics_of_known_samples() -> None:
    timing = Timing.of([[float(10 * tens + ones) for ones in range(10)] for tens in range(10)])
    assert (timing.median, timing.p90, timing.p99) == pytest.approx((49.5, 89.1, 98.01))


@given(rounds=ROUNDS)
def test_identical_subjects_never_show_a_gain(rounds: list[list[float]]) -> None:
    result = PhaseResult.of(rounds, rounds)
    assert result.conclusion is Conclusion.NOT_SIGNIFICANT
    assert result.interval == (1.0, 1.0)


@given(rounds=ROUNDS, factor=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_constant_factor_is_found_exactly(rounds: list[list[float]], factor: float) -> None:
    result = PhaseResult.of([[factor * sample for sample in samples] for samples in rounds], rounds)
    assert (result.speedup, *result.interval) == (factor, factor, factor)
    assert result.conclusion is (Conclusion.FASTER if factor > 1 else Conclusion.SLOWER)


def test_interval_holds_the_true_speedup_about_as_often_as_it_says() -> None:
    truth = 1.25
    intervals = [
        bootstrap_speedup(noisy(seed, seconds=truth), noisy(seed + 1000, seconds=1.0), seed=seed) for seed in range(100)
    ]
    assert sum(low <= truth <= high for low, high in intervals) >= 88


def test_launches_that_favour_one_graph_in_turn_are_not_taken_for_a_gain() -> None:
    conclusions = []
    for seed in range(60):
        luck = np.random.default_rng(seed).lognormal(sigma=0.02, size=4) * np.tile([1.05, 1 / 1.05], 2)
        dense = np.repeat(luck, 5)[:, np.newaxis] * noisy(seed, seconds=1.0, spread=0.01)
        pruned = noisy(seed + 1000, seconds=1.0, spread=0.01)
        conclusions.append(PhaseResult.of(dense.tolist(), pruned, launches=4, seed=seed).conclusion)
    assert sum(not conclusion.is_significant for conclusion in conclusions) >= 54


def test_pairs_that_slow_down_together_do_not_widen_the_interval() -> None:
    load = np.linspace(1.0, 3.0, 20)[:, np.newaxis]
    dense, pruned = 1.2 * np.asarray(noisy(1, seconds=1.0, spread=0.01)), np.asarray(noisy(2, seconds=1.0, spread=0.01))
    low, high = bootstrap_speedup((load * dense).tolist(), (load * pruned).tolist())
    unpaired_low, unpaired_high = bootstrap_speedup((load * dense).tolist(), (load[::-1] * pruned).tolist())
    assert high - low < 0.25 * (unpaired_high - unpaired_low)
    assert low <= 1.2 <= high


def test_interval_is_the_same_for_the_same_seed() -> None:
    dense, pruned = noisy(1, seconds=1.0), noisy(2, seconds=1.0)
    assert bootstrap_speedup(dense, pruned, seed=3) == bootstrap_speedup(dense, pruned, seed=3)
    assert bootstrap_speedup(dense, pruned, seed=3) != bootstrap_speedup(dense, pruned, seed=4)


@given(low=st.floats(0.1, 10), width=st.floats(0, 10))
def test_nothing_is_claimed_where_the_interval_holds_one(low: float, width: float) -> None:
    high = low + width
    conclusion = conclude((low, high))
    assert conclusion.is_significant == (not low <= 1 <= high)
    if conclusion.is_significant:
        assert conclusion is (Conclusion.FASTER if low > 1 else Conclusion.SLOWER)
    assert not math.isnan(high)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.98, 1.03), Conclusion.NOT_SIGNIFICANT),
        ((1.0, 1.1), Conclusion.NOT_SIGNIFICANT),
        ((0.9, 1.1), Conclusion.TOO_NOISY),
        ((1.01, 3.0), Conclusion.FASTER),
    ],
)
def test_a_wide_interval_hides_what_a_narrow_one_excludes(interval: tuple[float, float], expected: Conclusion) -> None:
    assert conclude(interval) is expected


def test_variation_is_the_standard_deviation_over_the_mean() -> None:
    assert Timing.of([[1.0, 2.0], [3.0, 4.0]]).variation == pytest.approx(1.2909944 / 2.5)
    assert Timing.of([[1.0]]).variation == 0
    assert Timing.of([[0.5]], tokens=4).tokens_per_second == 8
