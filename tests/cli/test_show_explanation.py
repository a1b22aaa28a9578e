from __future__ import annotations

import math

import pytest

from amp_export.cli.show_explanation import worst_points
from amp_export.parity.results import Point


def point(module: str, error: float, tolerance: float) -> Point:
    return Point("model.onnx", module, 0, module, "MatMul", error, tolerance / 4, tolerance, error <= tolerance)


@pytest.mark.parametrize("order", [1, -1])
def test_a_value_that_overflows_in_pytorch_too_does_not_hide_the_worst(order: int) -> None:
    points = [point("layers.0.a", math.inf, math.inf), point("layers.0.b", 0.5, 1.0)]
    [(_, worst)] = worst_points(points[::order])
    assert worst.module == "layers.0.b"
