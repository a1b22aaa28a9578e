"""What a page is made of: sections with sentences, pictures and tables, as the template takes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from amp_export.reporting.html.svg import Picture


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is the row's heading.

    Attributes:
        caption: What it holds.
        headings: One a column.
        rows: As many cells each.
        words: How many of the first columns hold words; the others hold numbers, and are aligned at their end.
        folded: Whether it opens on demand.
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
        """Return a table from anything that yields its cells."""
        return cls(caption, tuple(headings), tuple(tuple(row) for row in rows), words, folded)


@dataclass(frozen=True)
class PageSection:
    """A part of the page.

    Attributes:
        anchor: Its name in links.
        heading: Its heading.
        lines: Sentences; of a section that was not measured the only content.
        pictures: Pictures.
        tables: Tables.
        commands: Lines to be run in a shell.
    """

    anchor: str
    heading: str
    lines: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
