from __future__ import annotations

from collections.abc import Sequence

import pytest

from amp_export.benchmarking import sampling
from amp_export.benchmarking.sampling import Launches, Sampling, Stop
from amp_export.errors import RequestError

CALM, RESTLESS = (0.1, 0.101), (0.3, -0.3)


@pytest.fixture(autouse=True)
def as_users_have_it(few_launches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    del few_launches
    monkeypatch.setattr(sampling, "PILOT_LAUNCHES", 6)
    monkeypatch.setattr(sampling, "MOST_LAUNCHES", 24)


def run(options: Sampling, *phases: Sequence[float]) -> tuple[int, Stop | None]:
    """Make launches until no other follows; the ratios of each phase repeat."""
    launches = Launches(options)
    while launches.finish_one([[each[n % len(each)] for n in range(launches.done + 1)] for each in phases]):
        assert launches.done < launches.total
    return launches.done, launches.stop


def test_launches_end_when_all_phases_are_resolved() -> None:
    assert run(Sampling(), CALM) == (6, Stop.NARROW)
    assert run(Sampling(), CALM, RESTLESS) == (24, Stop.LAUNCH_LIMIT)
    done, stop = run(Sampling(min_effect=0.05), (0.06, -0.06))
    assert 6 < done < 24
    assert done % 2 == 0, "each model is started first equally often"
    assert stop is Stop.NARROW


def test_the_time_limit_ends_them_after_the_pilot_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))
    assert run(Sampling(time_limit=5.0), RESTLESS) == (6, Stop.TIME_LIMIT)
    assert run(Sampling(time_limit=45.0), RESTLESS) == (10, Stop.TIME_LIMIT)
    assert run(Sampling(time_limit=5.0), CALM) == (6, Stop.NARROW)


@pytest.mark.parametrize("launches", [1, 2, 3])
def test_a_given_number_of_launches_is_made(launches: int) -> None:
    assert run(Sampling(launches=launches), RESTLESS) == (launches, Stop.FIXED)


def test_rounds_are_spread_over_the_pilot_launches() -> None:
    assert Sampling(rounds=20).rounds_of_launch == 4
    assert Sampling(rounds=20, launches=4).rounds_of_launch == 5
    assert Sampling(rounds=1).rounds_of_launch == 1


@pytest.mark.parametrize(("rounds", "launches"), [(1, 2), (2, 2), (3, 2), (4, 4), (5, 4), (6, 6), (7, 6)])
def test_there_are_no_more_launches_than_rounds_and_as_many_that_start_with_each_model(
    rounds: int, launches: int
) -> None:
    assert run(Sampling(rounds=rounds, time_limit=0.0), RESTLESS) == (launches, Stop.TIME_LIMIT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "at least one of each"),
        ({"launches": 0}, "at least one of each"),
        ({"min_effect": 0.0}, "--min-effect is 0, but must be above 0"),
        ({"min_effect": float("nan")}, "--min-effect is nan"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Sampling(**options)
