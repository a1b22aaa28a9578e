"""The page of a table: the outcome, the plots, the numbers, and the commands that go on from a point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from amp_export.reporting.findings import Finding, Standing
from amp_export.reporting.html.elements import PageSection, Table
from amp_export.reporting.html.page import render_page, require_renderer
from amp_export.reporting.html.svg import Picture
from amp_export.sweeping.measures import MEASURES
from amp_export.sweeping.plots import by_ratio_picture, cost_picture
from amp_export.sweeping.summary import lines
from amp_export.sweeping.table import PointTable, headings, rows


def to_html(table: PointTable, output: Path) -> str:
    """Return the text of compare.html or sweep.html; the same input gives the same bytes.

    Args:
        table: The table.
        output: Its directory, for the commands.

    Raises:
        MissingExtraError: Jinja2 or Matplotlib is not installed.
    """
    require_renderer()
    first, *others = (*lines(table, output), f"{len(table.points)} points.")
    numbers = Table.of("All points", headings(table), rows(table), words=2)
    sections = [PageSection("points", "Points", tuple(others), tuple(_pictures(table)), (numbers,))]
    return render_page(
        title=table.model,
        kind=table.command,
        headline=first,
        findings=list(_findings(table)),
        sections=sections,
        version=table.amp_export,
        numbers=f"{table.command}.json",
    )


def _pictures(table: PointTable) -> Iterator[Picture]:
    if table.command == "compare" and (by_ratio := by_ratio_picture(table)) is not None:
        yield by_ratio
    yield from filter(None, (cost_picture(table, cost) for cost in table.fronts))


def _findings(table: PointTable) -> Iterator[Finding]:
    """Yield the conditions, parity of the chosen point, and the least perplexity."""
    if (choice := table.choice) is not None:
        for condition, holds in choice.held.items():
            name = condition.split()[0]
            numbers = {} if table.judged is None else table.judged.numbers
            number = MEASURES[name].show(numbers[name]) if name in numbers else ""
            standing = Standing.HOLDS if holds else Standing.FAILS
            yield Finding(condition, standing, number, f"{MEASURES[name].heading} of {choice.point}.")
        if choice.parity is not None:
            standing = Standing.HOLDS if choice.parity else Standing.FAILS
            yield Finding("Parity", standing, "", f"The export of {choice.point} against its checkpoint.")
    known = [each for each in table.points if "perplexity" in each.numbers]
    if known:
        best = min(known, key=lambda each: each.loss)
        number, dense = (MEASURES["perplexity"].show(each["perplexity"]) for each in (best.numbers, best.dense))
        sentence = f"Of {best.name}; the dense model's is {dense}."
        yield Finding("Smallest perplexity", Standing.MEASURED, number, sentence)
