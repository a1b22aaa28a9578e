"""The page of results, from the rows of all attacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

HEADER = """# Robustness

Written by `python ci/attack.py`, which attacks the command line with damaged inputs, crashes, bad disks, numeric faults
and hostile files. CI runs a sample of it (`--sample`).

"""

INPUTS = """## Damaged inputs

Members of JSON and of headers are removed, renamed or replaced by odd values, and bytes are changed, inserted or cut. A
command that reads the file must work, or end with exit code 2 and a message that names the file; where the content may
decide it, a check may fail (1). No stack trace, no end by a signal, no more than a minute of computing, no file
outside of the output. For files that the manifest lists, every other attack also changes their hash there.

| file | attacks | works | refused | check fails | not allowed |
| --- | ---: | ---: | ---: | ---: | ---: |
"""

CRASHES = """
## Crashes and bad disks

An end-to-end run over an existing output (or `bundle`, `benchmark --device`) is killed, or meets a condition. The old
result must stand, complete by the hashes of its manifest, or the new one; after a kill, the same command must work, and
leave nothing behind.

| attack | trials | ends (exit code: trials) | not allowed |
| --- | ---: | --- | ---: |
"""

FAULTS = """
## Numeric faults in graphs

A graph is exported from a model with one mistake, and compared with the right model. Parity must fail, and `--explain`
must name the layer of the mistake, or the value outside of the layers.

| family | fault | parity | first value that differs |
| --- | --- | --- | --- |
"""

FILES = """
## Hostile files

Each must be refused, without running code, showing or copying a file from elsewhere, or writing outside of the output.

| attack | result |
| --- | --- |
"""


def write(rows: Mapping[str, Sequence[Row]]) -> str:
    """Return the page for the rows of all sections."""
    tables = (
        (INPUTS, _inputs(rows["inputs"])),
        (CRASHES, _crashes(rows["crashes"])),
        (FAULTS, _faults(rows["faults"])),
        (FILES, _files(rows["files"])),
    )
    body = "".join(head + "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines) for head, lines in tables)
    return HEADER + body


def _inputs(rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
    columns = ("attacks", "works", "refuses", "fails")
    for row in rows:
        yield row["kind"], *(row[name] for name in columns), len(row["problems"])
    yield "**all**", *(sum(row[name] for row in rows) for name in columns), sum(len(row["problems"]) for row in rows)


def _crashes(rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
    for kind in dict.fromkeys(row["kind"] for row in rows):
        trials = [row for row in rows if row["kind"] == kind]
        ends = Counter("killed" if row["code"] == -9 else str(row["code"]) for row in trials)
        shown = ", ".join(f"{end}: {count}" for end, count in sorted(ends.items()))
        yield kind, len(trials), shown, sum(len(row["problems"]) for row in trials)


def _faults(rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        caught = "holds" if "not caught" in row["problems"] else "fails"
        named = "" if "not named" in row["problems"] else f"`{row['module']}`"
        yield row["family"], row["fault"], caught, named


def _files(rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        yield row["said"], row["problems"][0].splitlines()[0] if row["problems"] else "refused"
