from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.reporting.wording import change


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (200, 150, "-25.0%"),
        (2, 2, "+0.0%"),
        (3, 29, "+866.7%"),
        (2, 25, "x 12.5"),
        (0.001, 45, "x 4.5e+04"),
        (0, 5, ""),
    ],
)
def test_a_change_is_said_in_percent_or_as_a_factor(before: float, after: float, said: str) -> None:
    assert change(before, after) == said


@given(st.floats(1e-6, 1e12), st.floats(1e-6, 1e12))
def test_a_change_is_short(before: float, after: float) -> None:
    assert len(change(before, after)) <= len("x 1.23e+18")
