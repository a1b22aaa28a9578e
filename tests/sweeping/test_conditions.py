from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import RequestError
from amp_export.sweeping import conditions as language
from amp_export.sweeping.conditions import OPERATORS, Condition, hold, read_conditions
from amp_export.sweeping.measures import LIMITED
from tests.support import PROJECT


def test_conditions_are_read() -> None:
    assert read_conditions(
        "decode_ms<=35 and perplexity <= 1.2x and ratio>.1 and parameters < 9e7 and size_mb>=3."
    ) == (
        Condition("decode_ms", "<=", 35),
        Condition("perplexity", "<=", 1.2, times_dense=True),
        Condition("ratio", ">", 0.1),
        Condition("parameters", "<", 9e7),
        Condition("size_mb", ">=", 3),
    )


@given(
    st.lists(
        st.builds(
            Condition,
            st.sampled_from([name for name in LIMITED if name != "ratio"]),
            st.sampled_from([*OPERATORS]),
            st.integers(0, 9999).map(lambda number: number / 8),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["", " "]),
)
def test_what_is_written_is_read(conditions: list[Condition], space: str) -> None:
    text = " and ".join(
        f"{each.name}{space}{each.operator}{space}{each.number}{space + 'x' if each.times_dense else ''}"
        for each in conditions
    )
    assert read_conditions(text) == tuple(conditions)


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", 0, "expected the name of a number, found the end"),
        ("speed<=3", 0, "expected the name of a number, found 'speed'"),
        ("decode_ms", 9, "expected one of <=, <, >=, >, found the end"),
        ("decode_ms = 3", 10, "expected one of <=, <, >=, >, found '='"),
        ("decode_ms==3", 9, "found '=='"),
        ("decode_ms=<3", 9, "found '=<'"),
        ("decode_ms<=", 11, "expected a number, found the end"),
        ("decode_ms<=fast", 11, "expected a number, found 'fast'"),
        ("decode_ms<=-3", 11, "expected a number, found '-'"),
        ("decode_ms<=nan", 11, "expected a number, found 'nan'"),
        ("decode_ms<=1e999", 11, "expected a number that is not this large, found '1e999'"),
        ("ratio>=2x", 7, "expected a number without x, since the dense model's ratio is 0, found '2x'"),
        ("decode_ms<=35ms", 13, "expected `and` or the end, found 'ms'"),
        ("decode_ms<=35 or ratio>0.1", 14, "expected `and` or the end, found 'or'"),
        ("decode_ms<=35, ratio>0.1", 13, "expected `and` or the end, found ','"),
        ("decode_ms<=35 and", 17, "expected the name of a number, found the end"),
        ("decode_ms<=35 and and", 18, "expected the name of a number, found 'and'"),
        ("35>=decode_ms", 0, "expected the name of a number, found '35'"),
    ],
)
def test_an_error_points_at_its_place(text: str, place: int, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_conditions(text)
    first, line, arrow, advice = str(refused.value).splitlines()
    assert first.startswith(f"--until cannot be read at character {place + 1}: ")
    assert said in first
    assert line[2:] == text
    assert arrow == f"  {' ' * place}^"
    assert "decode_ms<=35 and perplexity<=1.2x" in advice
    assert all(name in advice for name in LIMITED)


def test_a_limit_may_be_times_the_dense_number() -> None:
    numbers, dense = {"perplexity": 36.0, "decode_ms": 30.0}, {"perplexity": 30.0, "decode_ms": 40.0}
    assert hold(read_conditions("perplexity<=1.2x and decode_ms<0.8x"), numbers, dense)
    assert not hold(read_conditions("perplexity<1.2x"), numbers, dense)
    (condition,) = read_conditions("decode_ms<=0.5x")
    assert condition.excess(numbers, dense) == pytest.approx(0.5)
    assert str(condition) == "decode_ms <= 0.5x"


def test_what_is_not_measured_or_not_a_number_meets_nothing() -> None:
    for name in LIMITED:
        for sign in OPERATORS:
            condition = Condition(name, sign, 1.0)
            for numbers in ({}, {name: math.nan}):
                assert not condition.holds(numbers, {name: 1.0})
                assert condition.excess(numbers, {name: 1.0}) == math.inf
            times = Condition(name, sign, 1.0, times_dense=True)
            assert not times.holds({}, {})
            assert times.excess({}, {}) == math.inf


def test_removing_more_helps_to_meet_limits_of_costs_and_harms_quality() -> None:
    helped = read_conditions("decode_ms<=1 and prefill_ms<1 and parameters<=1 and size_mb<1 and ratio>=0.3")
    assert all(each.eases for each in helped)
    harmed = read_conditions("perplexity<=1.2x and ratio<0.5 and parameters>=3")
    assert not any(each.eases for each in harmed)


def test_the_ratio_that_was_asked_for_counts_as_reached() -> None:
    for removed in (0.2995, 0.3005):
        for text in ("ratio<=0.3", "ratio>=0.3"):
            assert hold(read_conditions(text), {"ratio": removed}, {"ratio": 0.0})
    assert not hold(read_conditions("ratio<=0.3"), {"ratio": 0.302}, {"ratio": 0.0})
    assert not hold(read_conditions("ratio>0.3"), {"ratio": 0.2995}, {"ratio": 0.0})


def test_the_guide_has_the_grammar_and_the_names() -> None:
    guide = (PROJECT / "docs/sweep.md").read_text()
    grammar = [line.strip() for line in (language.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(grammar) == 2
    assert all(f"    {line}\n" in guide for line in grammar)
    assert set(re.findall(r"^\| `(\w+)` \| ", guide, flags=re.MULTILINE)) == set(LIMITED)
