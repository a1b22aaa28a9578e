"""Times in a device's report: whatever they are, they are compared or refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.devices.reports import read_device_report
from amp_export.errors import DeviceError

SECONDS = st.one_of(st.floats(1e-6, 10), st.sampled_from([0.0, -1.0, math.inf, math.nan, 3]))
ROUNDS = st.one_of(
    st.lists(st.lists(SECONDS, max_size=3), max_size=6),
    st.integers(1, 6).flatmap(
        lambda rounds: st.lists(st.lists(st.floats(1e-6, 10), min_size=2, max_size=2), min_size=rounds, max_size=rounds)
    ),
)


@given(dense=ROUNDS, pruned=ROUNDS, launches=st.integers(-1, 4))
def test_times_are_compared_or_refused(
    dense: list[list[float]], pruned: list[list[float]], launches: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file: Path = tmp_path_factory.mktemp("report") / "report.json"
    parity = {"holds": True, "cases": [{}]}
    phase = {"dense": {"samples": dense}, "pruned": {"samples": pruned}}
    report = {
        "schema": 1,
        "bundle": "mine",
        "parity": {"dense": parity, "pruned": parity},
        "benchmark": {"phases": {"decode": phase}, "launches": launches},
    }
    file.write_text(json.dumps(report))
    fits = all(
        launches >= 1
        and len(rounds) > 0
        and len(rounds) % launches == 0
        and len({len(row) for row in rounds}) == 1
        and all(0 < second < math.inf for row in rounds for second in row)
        and len(rounds[0]) > 0
        for rounds in (dense, pruned)
    )
    with pytest.raises(DeviceError, match=r"report\.json") as refused:
        read_device_report(file, identity="mine")
    # the rest of this report is missing, which is seen once its times are compared
    assert (r"samples:" in str(refused.value)) != fits
