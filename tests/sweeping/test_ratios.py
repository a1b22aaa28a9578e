from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import RequestError
from amp_export.options import CriterionName
from amp_export.sweeping.criteria import read_criteria
from amp_export.sweeping.ratios import MOST_RATIOS, read_ratios


@pytest.mark.parametrize(
    ("text", "ratios"),
    [
        ("0.3", (0.3,)),
        (" .2, 0.1,0.2 ", (0.1, 0.2)),
        ("0.1:0.5:0.1", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("0.1:0.35:0.1", (0.1, 0.2, 0.3)),
        ("0.2:0.2:0.1", (0.2,)),
        ("0.05,0.1:0.3:0.1,0.1", (0.05, 0.1, 0.2, 0.3)),
    ],
)
def test_lists_and_ranges_are_read(text: str, ratios: tuple[float, ...]) -> None:
    assert read_ratios(text) == ratios


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "0.5:0.1:0.1",
            "'0.5:0.1:0.1' begins at 0.5 and ends before it, at 0.1.\nA range is START:END:STEP: --ratios ",
        ),
        ("abc", "'abc' is neither a ratio nor a range"),
        ("", "'' is neither"),
        ("0.1,", "'' is neither"),
        ("0.1:0.2", "'0.1:0.2' is neither"),
        ("nan", "neither"),
        ("-0.1", "neither"),
        ("1e-1", "neither"),
        ("0,1", "0 is not between 0 and 1"),
        ("0.5,1.5", "1.5 is not between 0 and 1"),
        ("30", "30 is not between 0 and 1"),
        ("0.1:0.5:0", "never moves"),
        ("0.001:0.999:0.001", f"has 999 ratios, and each is a model to compute and keep.\nGive at most {MOST_RATIOS}"),
        ("0.1:0.5:0.0000001", "makes too many ratios"),
    ],
)
def test_what_is_no_list_is_refused(text: str, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_ratios(text)
    assert said in str(refused.value)
    assert "\n" in str(refused.value)


@given(st.integers(1, 98), st.integers(0, 90), st.integers(1, 50))
def test_a_range_holds_every_step_and_no_other(start: int, length: int, step: int) -> None:
    end = min(start + length, 99)
    found = read_ratios(f"{Decimal(start) / 100}:{Decimal(end) / 100}:{Decimal(step) / 100}")
    assert found == tuple(number / 100 for number in range(start, end + 1, step))


def test_criteria_are_read_in_their_order_and_others_are_refused() -> None:
    assert read_criteria("wanda, amp,wanda") == (CriterionName.WANDA, CriterionName.AMP)
    for text, word in (("amp,wnada", "'wnada'"), ("", "''"), ("amp,", "''"), ("AMP", "'AMP'")):
        with pytest.raises(RequestError, match=f"{word} is no criterion.\nKnown are amp, wanda, "):
            read_criteria(text)
