from __future__ import annotations

import math
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from amp_export.parity.extremes import largest, smallest

NUMBERS = st.lists(st.floats(), min_size=1, max_size=4)


@given(NUMBERS)
def test_extremes_do_not_depend_on_the_order(values: list[float]) -> None:
    for extreme, plain in ((largest, max), (smallest, min)):
        expected = math.nan if any(map(math.isnan, values)) else plain(values)
        for ordered in permutations(values):
            assert extreme(ordered) == expected or (math.isnan(extreme(ordered)) and math.isnan(expected))
