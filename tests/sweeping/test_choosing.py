from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from amp_export.options import CriterionName
from amp_export.sweeping.choosing import bisect, choose, closest, find_peak, pareto_front, search
from amp_export.sweeping.conditions import hold, read_conditions
from amp_export.sweeping.points import Point, PointResult

DENSE = {"decode_ms": 50.0, "perplexity": 20.0, "ratio": 0.0}


def result(number: int, count: int) -> PointResult:
    """A point of a model that gets faster and worse by equal steps."""
    ratio = number / (count + 1)
    numbers = {"ratio": ratio, "decode_ms": 50 * (1 - ratio), "perplexity": 20 / (1 - ratio)}
    return PointResult(Point(CriterionName.AMP, ratio), numbers, DENSE)


@given(st.integers(0, 200), st.data())
def test_bisection_finds_the_first_with_few_tests(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    tested: list[int] = []

    def holds(number: int) -> bool:
        tested.append(number)
        return number >= first

    assert bisect(count, holds) == first
    assert len(tested) <= math.ceil(math.log2(count + 1))
    assert set(tested) <= set(range(count))


@given(st.integers(1, 200), st.data())
def test_a_peak_is_found_with_few_values(count: int, data: st.DataObject) -> None:
    peak = data.draw(st.integers(0, count - 1))
    rise, fall = data.draw(st.floats(0.1, 10)), data.draw(st.floats(0.1, 10))
    asked: list[int] = []

    def value(place: int) -> float:
        asked.append(place)
        return (place - peak) * rise if place < peak else (peak - place) * fall

    assert find_peak(count, value) == peak
    assert len(asked) == len(set(asked)) <= math.ceil(math.log(count + 1, (1 + math.sqrt(5)) / 2)) + 1
    assert set(asked) <= set(range(count))


@given(
    st.integers(1, 60),
    st.lists(
        st.sampled_from(
            ["decode_ms<=40", "decode_ms<=0.3x", "ratio>=0.5", "perplexity<=1.5x", "perplexity<=60", "ratio<0.7"]
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_the_search_chooses_what_measuring_all_would_choose(count: int, parts: list[str]) -> None:
    conditions = read_conditions(" and ".join(parts))
    everything = [result(number, count) for number in range(1, count + 1)]
    measured: list[PointResult] = []

    def measure(number: int) -> PointResult:
        measured.append(everything[number])
        return everything[number]

    search(count, conditions, measure)
    assert len(measured) == len({each.name for each in measured}) <= math.ceil(math.log2(count + 1))
    assert choose(measured, conditions) == choose(everything, conditions)
    meeting = [each for each in everything if hold(conditions, each.numbers, each.dense)]
    found = choose(everything, conditions)
    if not meeting:
        assert found is None
    elif any(each.eases for each in conditions):
        assert found == min(meeting, key=lambda each: each.numbers["perplexity"])
    else:
        assert found == max(meeting, key=lambda each: each.ratio)


def test_the_closest_has_the_smallest_worst_miss() -> None:
    points = [result(number, 9) for number in range(1, 10)]
    # at 0.2: 40 ms and 25; at 0.3: 35 ms and 28.6; at 0.5: 25 ms and 40
    assert closest(points, read_conditions("decode_ms<=30 and perplexity<=25")).ratio == 0.3
    assert closest(points, read_conditions("decode_ms<=1")).ratio == 0.9
    assert closest([], read_conditions("decode_ms<=1")) is None


NUMBERS = st.one_of(st.integers(0, 5).map(float), st.just(math.nan), st.just(math.inf))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_the_front_is_what_nothing_dominates(pairs: list[tuple[float, float]]) -> None:
    points = {str(number): pair for number, pair in enumerate(pairs)}
    known = {name: pair for name, pair in points.items() if not any(map(math.isnan, pair))}

    def dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
        return first[0] <= second[0] and first[1] <= second[1] and first != second

    front = pareto_front(points)
    assert set(front) == {
        name for name, pair in known.items() if not any(dominates(other, pair) for other in known.values())
    }
    assert [known[name] for name in front] == sorted(known[name] for name in front)
