"""The page of results, from the rows that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.on_gpu.models import BUILDER
from bench.on_gpu.rows import Check, Done, Fact, Row, Times

from amp_export.options import Phase

MOST_OF_BUILDER = 1.05
"""Times of a decode step over the builder's that are to be reached."""

REALISED = 0.9
"""Share of the speedup that the bytes allow that is to be reached, at batch 1 by a CUDA graph."""

GRAPH = "CUDA graph"
"""In the names of runtimes that replay steps."""

_VERDICTS = {True: "holds", False: "**fails**", None: "not known"}

_HEADER = """# On a GPU

Written by `python ci/bench/gpu.py`. Llamas with random weights in float16, dense and pruned by AMP. The two models of a
row were measured in turns in one process: another process may differ by more than the interval, which is over the
rounds. Times are medians in milliseconds; the speedup is that of the second model over the first, with its 95 %
interval. Realised is the share of the speedup that the bytes of a step allow.
"""


def write_page(rows: Sequence[Row]) -> str:
    """Return the page."""
    facts = [f"- {row.name}: {row.value}." for row in rows if isinstance(row, Fact)]
    parts = [_HEADER, "\n".join(facts), *_targets(rows), *_times(rows), *_checks(rows), *_missing(rows)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _targets(rows: Sequence[Row]) -> Iterator[str]:
    yield "## Targets\n\n| target | found | verdict |\n| --- | --- | --- |\n" + "\n".join(
        f"| {name} | {found} | {_VERDICTS[holds]} |" for name, found, holds in _judge(rows)
    )


def _judge(rows: Sequence[Row]) -> Iterator[tuple[str, str, bool | None]]:
    decoding = [row for row in rows if isinstance(row, Times) and row.phase == Phase.DECODE]
    name = f"a decode step takes at most {MOST_OF_BUILDER} times as long as the builder's"
    ratios = [row.milliseconds[1] / row.milliseconds[0] for row in decoding if row.first == BUILDER]
    yield name, *_worst([max(ratios)] if ratios else [], lambda ratio: ratio <= MOST_OF_BUILDER)
    name = f"at batch 1 a CUDA graph realises {REALISED} of the speedup"
    shares = [
        row.speedup / row.allowed
        for row in decoding
        if row.allowed and row.batch == 1 and row.first != BUILDER and GRAPH in row.runtime
    ]
    yield name, *_worst([min(shares)] if shares else [], lambda share: share >= REALISED)


def _worst(found: Sequence[float], is_reached: Callable[[float], bool]) -> tuple[str, bool | None]:
    return (f"{found[0]:.2f}", is_reached(found[0])) if found else ("", None)


def _times(rows: Sequence[Row]) -> Iterator[str]:
    lines = [_line(row) for row in rows if isinstance(row, Times)]
    head = "| shape | runtime | batch | prompt | phase | first, ms | second, ms | speedup | realised |"
    yield "\n".join(["## Times", "", head, "| --- | --- | ---: | ---: | --- | --- | --- | --- | ---: |", *lines])


def _line(row: Times) -> str:
    (first, second), (low, high) = row.milliseconds, row.interval
    cells = (
        *(row.shape, row.runtime, row.batch, row.prompt, row.phase),
        *(f"{row.first} {first:.2f}", f"{row.second} {second:.2f}", f"{row.speedup:.2f} [{low:.2f}, {high:.2f}]"),
        f"{row.speedup / row.allowed:.0%}" if row.allowed and row.first != BUILDER else "",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _checks(rows: Sequence[Row]) -> Iterator[str]:
    lines = [f"| {row.name} | {row.found} | {_VERDICTS[row.holds]} |" for row in rows if isinstance(row, Check)]
    yield "\n".join(["## Checks", "", "| check | found | verdict |", "| --- | --- | --- |", *lines])


def _missing(rows: Sequence[Row]) -> Iterator[str]:
    if failed := [f"- {row.step}: {row.problem}" for row in rows if isinstance(row, Done) and row.problem]:
        yield "\n".join(["## Not measured", "", *failed])
