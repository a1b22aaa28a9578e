"""Show the table of `compare` or `sweep`, and exit with its code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from amp_export.cli.console import print_json
from amp_export.sweeping.place import table_file
from amp_export.sweeping.summary import lines
from amp_export.sweeping.table import PointTable, headings, rows

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 200
"""Characters of a line where there is no terminal, at most."""


def _wide(console: Console) -> Console:
    """Return a console whose lines are as long as a table needs, since a log has no edge."""
    from rich.console import Console

    return console if console.is_terminal else Console(file=console.file, highlight=False, width=LOG_WIDTH)


def show_points(console: Console, table: PointTable, output: Path, *, as_json: bool) -> None:
    """Print a table, as JSON on stdout or with a row for each point on the console.

    Raises:
        typer.Exit: No point meets the conditions, or parity fails for the one that does; the exit code is 1.
    """
    if as_json:
        print_json(table.to_json())
    else:
        shown = Table(title=f"amp-export: {escape(table.model)}", title_justify="left", box=SIMPLE)
        for number, heading in enumerate(headings(table)):
            shown.add_column(heading, justify="left" if number < 2 else "right", overflow="fold")
        for row in rows(table):
            shown.add_row(*map(escape, row))
        _wide(console).print(shown)
        for line in lines(table, output):
            console.print(line, markup=False, soft_wrap=True)
        console.print(f"Written: {output}", markup=False, soft_wrap=True)
        if (page := table_file(output, table.command, "html")).is_file():
            console.print(f"Open in a browser: {page}", markup=False, soft_wrap=True)
    if not table.holds:
        raise typer.Exit(1)
