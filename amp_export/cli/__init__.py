"""The command line: one module per command, which parses, makes one call, and shows the result.

Parameters have the same names as in the Python API.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import typer

from amp_export.cli import (
    benchmark,
    bundle,
    compare,
    convert,
    doctor,
    draft,
    evaluate,
    export,
    generate,
    inspect,
    prune,
    recover,
    report,
    sweep,
    validate,
)
from amp_export.cli.commands import show_unexpected

app = typer.Typer(
    name="amp-export",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # plain help loads in half the time
    rich_markup_mode=None,
)
app.callback(invoke_without_command=True, epilog=convert.EXAMPLES)(convert.convert)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=inspect.EXAMPLES)(inspect.inspect)
app.command(epilog=prune.EXAMPLES)(prune.prune)
app.command(epilog=recover.EXAMPLES)(recover.recover)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=draft.EXAMPLES)(draft.draft)
app.command(epilog=validate.EXAMPLES)(validate.validate)
app.command(epilog=benchmark.EXAMPLES)(benchmark.benchmark)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=generate.EXAMPLES)(generate.generate)
app.command(epilog=bundle.EXAMPLES)(bundle.bundle)
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=compare.EXAMPLES)(compare.compare)
app.command(epilog=sweep.EXAMPLES)(sweep.sweep)


def main() -> None:
    """Run the command line."""
    # which kernels a mixer of states could use besides PyTorch's, in the middle of what is shown
    logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    # tokenizers warns if a process forks after its threads started, as the reload check does
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.__stderr__ is None:  # closed by who called
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - it stays open as long as the process
    try:
        app()
    except Exception as error:  # noqa: BLE001 - before a command starts, as while options are parsed
        sys.exit(show_unexpected(error))
    finally:
        _lose_unwritten()


def _lose_unwritten() -> None:
    """Drop messages that could not be written: Python would try again at exit, and fail with a code of its own, 120."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
