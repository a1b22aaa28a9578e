"""Elements of a page, as the template takes them: sections with sentences, plots and tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from amp_export.reporting.html.svg import Picture


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is the row's heading.

    Attributes:
        caption: Its caption.
        headings: One heading per column.
        rows: Rows with one cell per column.
        words: Number of leading columns with words; the others hold numbers, which are aligned at their end.
        folded: Whether the table is collapsed at first.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    folded: bool = False

    @classmethod
    def of(
        cls,
        caption: str,
        headings: Iterable[str],
        rows: Iterable[Iterable[str]],
        *,
        words: int = 1,
        folded: bool = False,
    ) -> Table:
        """Return a table from iterables of cells."""
        return cls(caption, tuple(headings), tuple(tuple(row) for row in rows), words, folded)


@dataclass(frozen=True)
class PageSection:
    """A part of the page.

    Attributes:
        anchor: Its name in links.
        heading: Its heading.
        lines: Its sentences; the only content of a section that was not measured.
        pictures: Its plots.
        tables: Its tables.
        commands: Its shell commands.
    """

    anchor: str
    heading: str
    lines: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
