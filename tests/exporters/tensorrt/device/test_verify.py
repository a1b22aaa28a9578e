from __future__ import annotations

import math

import pytest

from amp_export.exporters.tensorrt.device import verify as module


@pytest.mark.parametrize("order", [1, -1])
def test_a_case_without_a_number_is_the_worst(order: int, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        {"name": name, "max_error": error, "mean_error": error, "holds": error == 0}
        for name, error in (("prefill", 0.0), ("decode", math.nan), ("padded", 0.0))[::order]
    ]
    for first in range(3):
        turned = [*cases[first:], *cases[:first]]
        module._show("pruned", {"cases": turned, "tolerance": 1.0, "mean_tolerance": 1.0})
        assert "FAILS in 1 of 3 cases: largest error nan" in capsys.readouterr().out
