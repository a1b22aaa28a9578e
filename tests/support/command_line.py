"""Calls of the command line within this process."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from amp_export.cli import app


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
