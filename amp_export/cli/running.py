"""How a command is run: errors become messages and exit codes, reports are shown or printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amp_export.errors import AmpExportError

if TYPE_CHECKING:
    from amp_export.cli.gates import Checks
    from amp_export.reporting.report import Report


def examples(*commands: str) -> str:
    """The end of a help page; the mark at its start keeps the lines as they are."""
    return "\n".join(("\b", "Examples:" if len(commands) > 1 else "Example:", *(f"  {each}" for each in commands)))


def run_and_show(
    work: Callable[[Any], Report],
    *,
    as_json: bool,
    written: Path | None,
    checks: Callable[[], Checks] | None = None,
    write: Callable[[Any, Report], None] | None = None,
) -> None:
    """Runs a command that makes a report, and shows it; exit code 1 where parity or a check fails.

    Args:
        work: Makes the report.
        as_json: Whether the report goes to stdout.
        written: Which output directory the work writes, or None.
        checks: Reads what the report is held to.
        write: Writes the report once that is known.
    """

    def show(console: Any) -> None:
        from amp_export.cli.console import print_json, show_checks, show_report

        # before the work: a mistake in their files should not be found after it
        held_to = checks() if checks is not None else None
        report = work(console)
        if held_to is not None:
            report = held_to.run(report)
        if write is not None:
            write(console, report)
        if as_json:
            print_json(report.to_json())
        else:
            show_report(console, report)
            if written is not None:
                console.print(f"Written: {written}", soft_wrap=True)
                if (page := written / "report.html").is_file():
                    console.print(f"For a browser: {page}", soft_wrap=True)
        show_checks(console, report.checks or ())
        if held_to is not None and (said := held_to.write_baseline(report)) is not None:
            console.print(said, soft_wrap=True)
        if not (report.holds and report.checks_hold):
            raise typer.Exit(1)

    run_command(show)


def run_command(work: Callable[[Any], None]) -> None:
    """Runs a command; a mistake of the user's ends in a message and an exit code, not in a stack trace."""
    from amp_export.cli.console import show_error, stderr_console

    console = stderr_console()
    try:
        work(console)
    except AmpExportError as error:
        show_error(console, str(error))
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        show_error(console, "Interrupted; nothing was written.")
        # 128 + SIGINT, as shells report it
        raise typer.Exit(130) from None
