"""The directory of `compare` or `sweep`: a table, and an output directory for each point.

It is filled step by step, so that a run that ends early leaves what it has finished. Each point's directory, and each
file of the table, is replaced atomically.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amp_export.documents import as_read_back
from amp_export.errors import MissingExtraError, OutputError
from amp_export.options import CriterionName
from amp_export.outputs.locks import is_locked, lock_until_closed
from amp_export.outputs.names import SCORES
from amp_export.outputs.scratch import translate_os_errors
from amp_export.outputs.staging import entries_of, is_ours, replace_text
from amp_export.progress import Progress
from amp_export.sweeping.page import to_html
from amp_export.sweeping.points import Point
from amp_export.sweeping.summary import to_markdown
from amp_export.sweeping.table import PointTable
from amp_export.verb_options import BenchmarkOptions, ExportOptions, PruneOptions

COMMANDS = ("compare", "sweep")
"""Commands that fill such a directory; their files have their names."""

DENSE = "dense"
"""Name of the output directory with the dense model's export."""

FORMS = ("json", "md", "html")

_LOCK = ".points.lock"


def table_file(output: Path, command: str, form: str = "json") -> Path:
    """Return the path of a command's table in one form."""
    return output / f"{command}.{form}"


def open_place(output: Path, command: str, *, resume: bool, overwrite: bool) -> PointTable | None:
    """Return the earlier table that a run goes on with; None if it starts anew.

    Raises:
        OutputError: The directory holds something else, or an earlier table with neither `resume` nor `overwrite`.
    """
    names = entries_of(output)
    if not names:
        return None
    other = next((each for each in COMMANDS if each != command and table_file(output, each).is_file()), None)
    if other is not None:
        raise OutputError(f"{output} holds the points of amp-export {other}.\nChoose another --output.")
    if is_ours(output):
        raise OutputError(
            f"{output} holds the result of another command, for one model.\nChoose another --output: {command} writes "
            "a directory for each point."
        )
    if not table_file(output, command).is_file():
        raise OutputError(
            f"{output} is not empty and was not written by amp-export {command} (it holds {', '.join(names[:5])}), so "
            "it is not written to.\nChoose another --output."
        )
    if overwrite:
        return None
    table = PointTable.load(table_file(output, command))
    if not resume:
        raise OutputError(
            f"{output} holds the points of an earlier run.\nGive --resume to go on with it, which may "
            "have other ratios, or --overwrite to replace it."
        )
    return table


def check_same(output: Path, earlier: PointTable, table: PointTable) -> None:
    """Raise an error if a run cannot go on with an earlier table.

    Raises:
        OutputError: It is of another model, or its points have other options.
    """
    if earlier.sha256 != table.sha256:
        raise OutputError(
            f"{output} holds points of {earlier.model} (SHA-256 {earlier.sha256[:12]}), and {table.model} "
            f"(SHA-256 {table.sha256[:12]}) is another model.\nChoose another --output, or replace it with --overwrite."
        )
    before, now = earlier.request, table.request
    names = dict.fromkeys([*before, *now])
    unlike = [
        f"{name} was {before.get(name)} and is {now.get(name)}" for name in names if before.get(name) != now.get(name)
    ]
    if unlike:
        raise OutputError(
            f"{output} holds points that were made with other options: {'; '.join(unlike)}.\nGive the options of "
            "before, with any ratios, choose another --output, or replace it with --overwrite."
        )


def shared_options(
    prune: PruneOptions, export: ExportOptions | None = None, benchmark: BenchmarkOptions | None = None
) -> Mapping[str, Any]:
    """Return the options that all points share, as JSON has them, by names such as `prune.heads`."""
    groups = {"prune": prune, "export": export, "benchmark": benchmark}
    content = {
        f"{verb}.{name}": value
        for verb, options in groups.items()
        if options is not None
        for name, value in asdict(options).items()
    }
    for own in ("ratio", "criterion", "scores", "plan"):
        del content[f"prune.{own}"]
    return as_read_back(content)


@contextmanager
def working_in(output: Path) -> Iterator[None]:
    """Let one run at a time work in a directory, which is created.

    Raises:
        OutputError: Another run works there, the disk is full, or nothing can be written.
    """
    with translate_os_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        lock = output / _LOCK
        if is_locked(lock):
            raise OutputError(f"Another command is working in {output}.\nWait until it has ended, or stop it.")
        descriptor = lock_until_closed(lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            os.close(descriptor)
            if not any(output.iterdir()):
                output.rmdir()


def remove_earlier(output: Path, command: str) -> None:
    """Remove an earlier table and its points; what else is there stays."""
    for form in FORMS:
        table_file(output, command, form).unlink(missing_ok=True)
    for entry in [*output.iterdir()]:
        is_point = entry.name.partition("-")[0] in set(CriterionName)
        if (is_point or entry.name == DENSE) and is_ours(entry):
            shutil.rmtree(entry)


def find_scores(output: Path, criterion: CriterionName) -> Path | None:
    """Return the scores by a criterion that a point has left, or None."""
    folders = sorted(output.glob(f"{criterion}-*"))
    return next((folder / SCORES for folder in folders if is_ours(folder) and (folder / SCORES).is_file()), None)


def is_pruned(output: Path, point: Point) -> bool:
    """Return whether a point has its output directory."""
    return is_ours(output / point.name)


def save_numbers(output: Path, table: PointTable) -> None:
    """Write the table for programs."""
    replace_text(table_file(output, table.command), table.to_json())


def save(output: Path, table: PointTable, progress: Progress) -> None:
    """Write the table in every form that can be rendered here; an older page does not stay."""
    save_numbers(output, table)
    replace_text(table_file(output, table.command, "md"), to_markdown(table, output))
    page = table_file(output, table.command, "html")
    try:
        replace_text(page, to_html(table, output))
    except MissingExtraError as error:
        page.unlink(missing_ok=True)
        progress.note(f"{page.name} is not written. {error}")
