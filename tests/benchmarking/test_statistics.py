from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.benchmarking.statistics import (
    Conclusion,
    PhaseResult,
    Timing,
    conclude,
    launch_ratios,
    launches_needed,
    speedup_interval,
)

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


def split(rounds: list[list[float]], launches: int) -> list[list[float]]:
    """Return as many rounds as can be split into this many launches."""
    return rounds[: len(rounds) // launches * launches]


@given(rounds=ROUNDS, launches=st.integers(2, 4))
def test_identical_subjects_never_show_a_speedup(rounds: list[list[float]], launches: int) -> None:
    rounds = split(rounds * 4, launches)
    result = PhaseResult.of(rounds, rounds, launches=launches)
    assert result.conclusion is Conclusion.NEGLIGIBLE
    assert (result.speedup, *result.interval) == (1.0, 1.0, 1.0)


@given(rounds=ROUNDS, factor=st.sampled_from([0.25, 0.5, 2.0, 4.0]), launches=st.integers(2, 4))
def test_constant_factor_is_found(rounds: list[list[float]], factor: float, launches: int) -> None:
    rounds = split(rounds * 4, launches)
    times = [[factor * sample for sample in samples] for samples in rounds]
    result = PhaseResult.of(times, rounds, launches=launches)
    assert (result.speedup, *result.interval) == pytest.approx((factor, factor, factor))
    assert result.conclusion is (Conclusion.FASTER if factor > 1 else Conclusion.SLOWER)


TRIALS = 3000


def simulate(luck: float, *, truth: float = 1.0, min_effect: float | None = None) -> tuple[float, float, float]:
    """Compare two graphs that differ by a factor, many times; each process has its own luck, and rounds share a load.

    Args:
        luck: Standard deviation of the factor that a process has for as long as it runs.
        truth: How much slower the dense graph is.
        min_effect: Smallest effect that matters, which decides on further launches; by default there are none.

    Returns:
        The share of intervals that contain the truth, that of comparisons that claim a difference, and the mean number
        of launches.
    """
    generator = np.random.default_rng(1)
    pilot, most = 6, 24
    log_luck = generator.normal(0, luck, (TRIALS, 2, most, 1))
    load = generator.normal(0, 0.01, (TRIALS, 1, most, 5))
    seconds = np.exp(log_luck + load + generator.normal(0, 0.01, (TRIALS, 2, most, 5)))
    seconds[:, 0] *= truth
    covered = claimed = made = 0
    for dense, pruned in seconds:
        ratios = launch_ratios(dense, pruned, launches=most)
        launches = pilot
        if min_effect is not None:
            launches = min(launches_needed(ratios[:pilot], min_effect=min_effect), most)
        low, high = speedup_interval(ratios[:launches], pilot_launches=pilot)
        covered += low <= truth <= high
        claimed += conclude((low, high)).is_significant
        made += launches
    return covered / TRIALS, claimed / TRIALS, made / TRIALS


@pytest.mark.parametrize("min_effect", [None, 0.05, 0.02, 0.01])
@pytest.mark.parametrize("luck", [0.0, 0.02, 0.05])
def test_interval_holds_the_true_speedup_as_often_as_it_says(luck: float, min_effect: float | None) -> None:
    """However many launches the first ones ask for: an estimate of the spread from all of them covers 91 to 93 %."""
    covered, _, _ = simulate(luck, truth=1.25, min_effect=min_effect)
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("luck", [0.0, 0.02, 0.05])
def test_a_graph_compared_with_itself_is_rarely_called_faster(luck: float) -> None:
    _, claimed, _ = simulate(luck)
    assert claimed <= 0.06


def test_launches_are_added_until_the_smallest_effect_is_resolved() -> None:
    _, _, narrow = simulate(0.02, min_effect=0.02)
    _, _, wide = simulate(0.02, min_effect=0.2)
    assert wide == 6
    assert 10 < narrow < 20
    ratios = [0.02, -0.02] * 3
    needed = launches_needed(ratios, min_effect=0.01)
    half = math.log(speedup_interval(ratios * needed, pilot_launches=6)[1] / speedup_interval(ratios * needed)[0])
    assert half < math.log1p(0.01)
    low, high = speedup_interval((ratios * needed)[:needed], pilot_launches=6)
    assert high / low == pytest.approx(1.01**2, rel=1e-3), "to either side by the smallest effect"


def test_one_launch_says_nothing_about_others() -> None:
    result = PhaseResult.of(noisy(1, seconds=2.0), noisy(2, seconds=1.0), launches=1)
    assert result.interval == (0.0, math.inf)
    assert result.conclusion is Conclusion.TOO_NOISY


def test_pairs_that_slow_down_together_do_not_widen_the_interval() -> None:
    load = np.repeat(np.linspace(1.0, 3.0, 4), 5)[:, np.newaxis]
    dense, pruned = 1.2 * np.asarray(noisy(1, seconds=1.0, spread=0.01)), np.asarray(noisy(2, seconds=1.0, spread=0.01))
    paired = PhaseResult.of((load * dense).tolist(), (load * pruned).tolist(), launches=4).interval
    unpaired = PhaseResult.of((load * dense).tolist(), (load[::-1] * pruned).tolist(), launches=4).interval
    assert paired[1] - paired[0] < 0.25 * (unpaired[1] - unpaired[0])
    assert paired[0] <= 1.2 <= paired[1]


@given(low=st.floats(0.1, 10), width=st.floats(0, 10), min_effect=st.floats(0.001, 1))
def test_nothing_is_claimed_where_the_interval_holds_one_or_matters_little(
    low: float, width: float, min_effect: float
) -> None:
    high = low + width
    conclusion = conclude((low, high), min_effect=min_effect)
    is_small = 1 / (1 + min_effect) <= low and high <= 1 + min_effect
    assert (conclusion is Conclusion.NEGLIGIBLE) == is_small
    assert conclusion.is_significant == (not low <= 1 <= high and not is_small)
    if conclusion.is_significant:
        assert conclusion is (Conclusion.FASTER if low > 1 else Conclusion.SLOWER)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.98, 1.03), Conclusion.NEGLIGIBLE),
        ((1.01, 1.04), Conclusion.NEGLIGIBLE),
        ((0.9, 1.04), Conclusion.TOO_NOISY),
        ((1.0, 1.1), Conclusion.TOO_NOISY),
        ((1.01, 3.0), Conclusion.FASTER),
    ],
)
def test_a_wide_interval_hides_what_a_narrow_one_excludes(interval: tuple[float, float], expected: Conclusion) -> None:
    assert conclude(interval) is expected


def test_variation_is_the_standard_deviation_over_the_mean() -> None:
    assert Timing.of([[1.0, 2.0], [3.0, 4.0]]).variation == pytest.approx(1.2909944 / 2.5)
    assert Timing.of([[1.0]]).variation == 0
    assert Timing.of([[0.5]], tokens=4).tokens_per_second == 8
