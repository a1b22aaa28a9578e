from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.options import CriterionName
from amp_export.sweeping.page import to_html
from amp_export.sweeping.points import Point, PointResult
from amp_export.sweeping.summary import lines, to_markdown
from amp_export.sweeping.table import COSTS, Choice, PointTable, find_fronts, headings, order, rows

DENSE = {"ratio": 0.0, "parameters": 1e8, "perplexity": 20.0, "size_mb": 400.0, "prefill_ms": 90.0, "decode_ms": 40.0}


def result(
    ratio: float, perplexity: float | None, *, criterion: CriterionName = CriterionName.AMP, machine: str = "one"
) -> PointResult:
    numbers = {name: value * (1 - ratio) for name, value in DENSE.items()} | {"ratio": ratio}
    dense = dict(DENSE)
    if perplexity is None:
        del numbers["perplexity"], dense["perplexity"]
    else:
        numbers["perplexity"] = perplexity
    return PointResult(Point(criterion, ratio), numbers, dense, machine)


def table(*results: PointResult, command: str = "sweep", choice: Choice | None = None) -> PointTable:
    return PointTable(command, "a <model> | b", "0" * 64, {}, results, find_fronts(results), choice, {"torch": "2"})


@pytest.mark.parametrize("command", ["compare", "sweep"])
@pytest.mark.parametrize(
    "perplexities",
    [(), (25.0, 30.0, 50.0), (25.0, math.inf, 1e8), (math.nan, math.nan), (None, None), (None, 30.0), (0.0, 0.0)],
    ids=str,
)
def test_any_numbers_can_be_shown_and_read_again(
    command: str, perplexities: tuple[float | None, ...], tmp_path: Path
) -> None:
    found = table(*(result((1 + n) / 10, each) for n, each in enumerate(perplexities)), command=command)
    assert {len(row) for row in rows(found)} <= {len(headings(found))}
    (tmp_path / "table.json").write_text(found.to_json())
    assert PointTable.load(tmp_path / "table.json").to_json() == found.to_json()
    text = to_markdown(found, tmp_path)
    assert "a &lt;model> \\| b" in text
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    page = to_html(found, tmp_path)
    assert page == to_html(found, tmp_path)
    assert "<model>" not in page
    drawn = any(each is not None and math.isfinite(each) for each in perplexities)
    assert page.count("<svg") == (drawn * (len(COSTS) + (command == "compare")))


POINTS = tuple(Point(criterion, ratio / 10) for criterion in CriterionName for ratio in range(1, 4))


@given(st.permutations(POINTS))
def test_points_are_ordered_whatever_came_first(points: list[Point]) -> None:
    assert order([*points, *points[:3]]) == POINTS


def test_fronts_compare_times_with_the_dense_model_beside_them() -> None:
    slow = result(0.3, 30.0)
    # the machine was twice as slow while this one was timed
    times = {name: 2 * DENSE[name] for name in ("prefill_ms", "decode_ms")}
    pruned = {name: 0.7 * time for name, time in times.items()}
    slow = PointResult(slow.point, {**slow.numbers, **pruned}, {**DENSE, **times}, "one")
    found = find_fronts([result(0.1, 22.0), result(0.2, 24.0), result(0.2, 26.0, criterion=CriterionName.RANDOM), slow])
    assert found == dict.fromkeys(COSTS, ("amp-0.3", "amp-0.2", "amp-0.1"))


def test_the_outcome_is_said(tmp_path: Path) -> None:
    points = (result(0.1, 22.0), result(0.2, 24.0, machine="another"))
    met = Choice("decode_ms<=33", "amp-0.2", True, {"decode_ms <= 33": True}, parity=True)
    said = list(lines(table(*points, choice=met), tmp_path))
    assert said[0].startswith(
        "Chosen: amp-0.2, which meets decode_ms<=33, at ratio 20.0%, parameters 80 M, perplexity 24"
    )
    assert said[1] == f"Parity holds for its export. It is an output directory like any other: {tmp_path / 'amp-0.2'}"
    assert said[-1] == "Times were measured on different machines: another; one."
    failed = Choice("decode_ms<=1 and ratio>0.5", "amp-0.2", False, {"decode_ms <= 1": False, "ratio > 0.5": False})
    found = table(*points, choice=failed)
    assert not found.holds
    assert "The closest is amp-0.2: decode_ms <= 1 and ratio > 0.5 fail, at" in next(lines(found, tmp_path))
    assert [row[1] for row in rows(found)] == ["", "front", "closest, front"]
    broken = table(*points, choice=Choice("ratio>=0.1", "amp-0.1", True, {"ratio >= 0.1": True}, parity=False))
    assert not broken.holds
    compared = table(result(0.1, 22.0), result(0.1, 21.0, criterion=CriterionName.WANDA), command="compare")
    assert next(lines(compared, tmp_path)) == "Smallest perplexity: wanda at 0.1."
