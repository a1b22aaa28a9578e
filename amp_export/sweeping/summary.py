"""Sentences about a table, and its Markdown form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from amp_export.errors import command_line
from amp_export.outputs.names import DRAFT
from amp_export.reporting.markdown import plain, table_row
from amp_export.sweeping.conditions import Condition
from amp_export.sweeping.measures import LIMITED, MEASURES
from amp_export.sweeping.points import PointResult
from amp_export.sweeping.table import COSTS, PointTable, headings, rows


def lines(table: PointTable, output: Path) -> Iterator[str]:
    """Yield sentences about a table, the outcome first."""
    if table.choice is not None:
        yield from _choice_lines(table, output)
    if table.command == "compare":
        yield from _best_lines(table)
    for cost, front in table.fronts.items():
        if cost != "prefill_ms" or "decode_ms" not in table.fronts:
            yield f"Pareto front of perplexity and {COSTS[cost]}: {', '.join(front) or 'no point'}."
    yield from _draft_lines(table, output)
    yield from table.notes


def _choice_lines(table: PointTable, output: Path) -> Iterator[str]:
    choice = table.choice
    assert choice is not None
    if (result := table.judged) is None:
        yield f"No point was measured, so that none meets {choice.until}."
        return
    numbers = _numbers(result)
    if not choice.met:
        failed = [condition for condition, holds in choice.held.items() if not holds]
        verb = "fails" if len(failed) == 1 else "fail"
        missed = f"{' and '.join(failed)} {verb}"
        yield f"No point meets {choice.until}. The closest is {result.name}: {missed}, at {numbers}."
        return
    yield f"Chosen: {result.name}, which meets {choice.until}, at {numbers}."
    folder = output / result.name
    if choice.parity is False:
        explain = command_line("amp-export", "validate", folder, "--explain")
        yield f"Parity FAILS for its export. What differs: {explain}"
    elif choice.parity:
        yield f"Parity holds for its export. It is an output directory like any other: {folder}"


def _draft_lines(table: PointTable, output: Path) -> Iterator[str]:
    if (best := table.fastest_draft) is None:
        return
    speedup, low = best.numbers["draft_speedup"], best.numbers["draft_speedup_low"]
    doubt = "" if low > 1 else ", so that it is not shown to be faster"
    yield (
        f"Fastest draft: {best.name}. With it the dense model generates {speedup:.2f} times as fast as alone, and at "
        f"least {low:.2f} times (95 %){doubt}. Both are in {output / best.name / DRAFT}"
    )


def describe(result: PointResult, conditions: Sequence[Condition]) -> str:
    """Return the numbers of a point that conditions are about, and which of them hold."""
    said = []
    for each in conditions:
        number = MEASURES[each.name].show(result.numbers[each.name]) if each.name in result.numbers else "not measured"
        said.append(f"{each} {'holds' if each.holds(result.numbers, result.dense) else 'fails'} ({number})")
    return ", ".join(said)


def _numbers(result: PointResult) -> str:
    """Return the numbers of a point that conditions may name."""
    names = [name for name in MEASURES if name in LIMITED and name in result.numbers]
    return ", ".join(f"{name} {MEASURES[name].show(result.numbers[name])}" for name in names)


def _best_lines(table: PointTable) -> Iterator[str]:
    """Yield the criterion with the smallest perplexity at each ratio, if there are several."""
    best = []
    for asked in sorted({each.point.asked for each in table.points}):
        found = [each for each in table.points if each.point.asked == asked and "perplexity" in each.numbers]
        if len(found) > 1:
            best.append(f"{min(found, key=lambda each: each.loss).point.criterion} at {asked:g}")
    if best:
        yield f"Smallest perplexity: {', '.join(best)}."


def to_markdown(table: PointTable, output: Path) -> str:
    """Return the table as Markdown, with the sentences about it."""
    title = "criteria compared" if table.command == "compare" else "sweep"
    names = headings(table)
    text = [f"# amp-export: {title}, {plain(table.model)}", ""]
    text += [table_row(*names), "| --- | --- |" + " ---: |" * (len(names) - 2)]
    text += [table_row(*row) for row in rows(table)]
    text += ["", *(f"- {plain(line)}" for line in [*lines(table, output), f"Points: {len(table.points)}."]), ""]
    versions = ", ".join(f"{name} {found}" for name, found in table.packages.items())
    return "\n".join([*text, f"Versions: {versions}."]) + "\n"
