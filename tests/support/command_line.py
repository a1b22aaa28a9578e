"""Calls of the command line within this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from amp_export.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])
