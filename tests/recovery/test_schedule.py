"""What a step does follows from its number: windows and learning rate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amp_export.recovery.course import MEASUREMENTS, PATIENCE, Course
from amp_export.recovery.results import Measurement, Stop
from amp_export.recovery.schedule import Limits, learning_rate, windows_of


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 9))
def test_each_epoch_has_every_window_once(count: int, per_step: int, seed: int) -> None:
    drawn = [
        window for step in range(3 * count) for window in windows_of(step, count=count, per_step=per_step, seed=seed)
    ]
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_orders_differ_by_seed_and_epoch() -> None:
    orders = {tuple(windows_of(epoch, count=20, per_step=20, seed=seed)) for epoch in range(3) for seed in range(3)}
    assert len(orders) == 9


@settings(max_examples=40)
@given(st.integers(1, 300))
def test_the_learning_rate_rises_then_falls_towards_zero(steps: int) -> None:
    limits = Limits(steps, None)
    rates = [learning_rate(2.0, limits, step=step, progress=limits.progress(step, 0)) for step in range(steps)]
    top = rates.index(max(rates))
    assert 0 < min(rates) <= max(rates) <= 2
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= 10
    assert learning_rate(2.0, limits, step=steps, progress=1.0) == pytest.approx(0)


@settings(max_examples=40)
@given(st.integers(0, 100), st.floats(0, 100))
def test_the_limit_that_is_nearer_decides(step: int, seconds: float) -> None:
    both = Limits(50, 40.0).progress(step, seconds)
    assert both == max(Limits(50, None).progress(step, seconds), Limits(None, 40.0).progress(step, seconds))
    assert (both == 1) == (step >= 50 or seconds >= 40)


@settings(max_examples=40)
@given(st.integers(1, 200))
def test_the_divergence_is_measured_that_often_and_at_the_end(steps: int) -> None:
    limits, course, measured = Limits(steps, None), Course((Measurement(0, 9.0),)), []
    for step in range(1, steps + 1):
        progress = limits.progress(step, 0)
        if course.is_due(progress):
            course = Course(course.measurements, step=step).measured(8.0 - step / steps, progress)
            measured.append(step)
    assert len(measured) == min(steps, MEASUREMENTS)
    assert measured[-1] == steps


def follow(divergences: list[float]) -> Course:
    course = Course((Measurement(0, 1.0),))
    for step, kl in enumerate(divergences, start=1):
        assert course.stop is None
        course = Course(course.measurements, step=step).measured(kl, step / MEASUREMENTS)
    return course


@pytest.mark.parametrize(
    ("divergences", "stop", "best"),
    [
        ([0.8, 0.7], None, 2),
        ([0.8, *[0.9] * (PATIENCE - 1)], None, 1),
        ([0.8, *[0.9] * PATIENCE], Stop.NO_GAIN, 1),
        ([1.09, 1.05, 0.9], None, 3),
        ([1.09, 1.08, 1.07], Stop.NO_GAIN, 0),
        ([1.11], Stop.DIVERGED, 0),
        ([0.8, 1.11], Stop.DIVERGED, 1),
        ([0.8, float("nan")], Stop.DIVERGED, 1),
        ([float("inf")], Stop.DIVERGED, 0),
        ([1.0] * PATIENCE, Stop.NO_GAIN, 0),
    ],
)
def test_it_ends_without_gain_and_keeps_the_best(divergences: list[float], stop: Stop | None, best: int) -> None:
    course = follow(divergences)
    assert (course.stop, course.best.step) == (stop, best)
