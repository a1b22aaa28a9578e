"""Measure what pruning costs in quality, and write docs/results/quality.md.

    python ci/bench/quality.py --data DIR --work DIR [--model MODEL] [--only NAME ...] [--again NAME ...] [--limit N]

The model is pruned by each method, through the command line, and measured: perplexity of two texts, four tasks, and how
much its own text repeats. A row that was measured is kept beside the page. It is not measured again unless its
options, the data, the model, the extent or the version of amp-export have changed, or --again names it. The page is
written from the rows that are there. Two runs can share a work directory, each with other names after --only, and with
OMP_NUM_THREADS=1 two cores measure more in the same time; times are then of one thread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "ci"))

from bench.pruning_quality import page, splitting  # noqa: E402
from bench.pruning_quality.measuring import QUESTIONS_PER_WINDOW, Bench, Extent, Row, run_method  # noqa: E402
from bench.pruning_quality.methods import DENSE, METHODS, SEEDS, Method  # noqa: E402

from amp_export.checkpoints.hashing import hash_weights  # noqa: E402
from amp_export.checkpoints.reading import open_checkpoint  # noqa: E402
from amp_export.checkpoints.sources import resolve_model  # noqa: E402
from amp_export.errors import AmpExportError, first_line  # noqa: E402
from amp_export.progress import Progress  # noqa: E402

PAGE = PROJECT / "docs/results/quality.md"


def main() -> int:
    """Measure what is missing, and write the page; return 1 if a method could not be measured."""
    asked = _parse()
    progress = _progress()
    try:
        split = splitting.split(asked.data, asked.work / "data", seeds=SEEDS)
        checkpoint = open_checkpoint(resolve_model(asked.model, on_status=progress.note).path)
    except AmpExportError as error:
        print(error, file=sys.stderr)
        return 2
    bench = Bench(
        model=asked.model,
        checkpoint=checkpoint.path,
        sha256=hash_weights(checkpoint),
        split=split,
        extent=Extent.of(asked.limit),
        folder=asked.work,
        rows=asked.page.with_suffix(""),
        keep=asked.keep,
    )
    chosen = [method for method in METHODS if method is DENSE or not asked.only or method.name in asked.only]
    failed = measure_missing(chosen, bench, progress, again=asked.again or ())
    rows = {method.name: row for method in METHODS if (row := bench.kept_row(method)) is not None}
    if DENSE.name in rows:
        limit = "" if asked.limit is None else f" --limit {asked.limit}"
        model = "" if asked.model == "demo" else f" --model {Path(asked.model).name}"
        about = page.About(asked.model, bench.extent, model + limit)
        asked.page.write_text(page.write(rows, about), encoding="utf-8")
        print(f"{asked.page}: {len(rows)} of {len(METHODS)} rows", file=sys.stderr)
    for name, reason in failed.items():
        print(f"{name} was not measured: {reason}", file=sys.stderr)
    return 1 if failed else 0


def measure_missing(
    methods: Sequence[Method], bench: Bench, progress: Progress, *, again: Sequence[str] = ()
) -> dict[str, str]:
    """Measure the methods that have no row, and those that are named; return what went wrong, by method."""
    failed = {}
    for method in methods:
        try:
            if method.name in again or bench.kept_row(method) is None:
                row = run_method(method, bench, progress)
                bench.keep_row(method, row)
                progress.note(f"{method.name}: {_times(row)}")
        except (AmpExportError, subprocess.CalledProcessError) as error:
            # the other rows can be measured still
            failed[method.name] = first_line(error)
    return failed


def _times(row: Row) -> str:
    times = {
        "pruned": row.made.pruning_seconds,
        "trained": row.made.recovery_seconds,
        "measured": row.evaluation_seconds,
    }
    return ", ".join(f"{name} in {seconds:.0f} s" for name, seconds in times.items() if seconds is not None)


def _progress() -> Progress:
    from rich.console import Console

    from amp_export.cli.console import ConsoleProgress

    return ConsoleProgress(Console(stderr=True))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=splitting.DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data directory; see below")
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="where scores are kept; not in the project"
    )
    parser.add_argument("--model", default="demo", help="default: demo; or a checkpoint")
    names = [method.name for method in METHODS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"measure these, and dense: {', '.join(names)}"
    )
    parser.add_argument(
        "--again", nargs="+", choices=names, metavar="NAME", help="measure these again, such as after the code changed"
    )
    windows = f"a {QUESTIONS_PER_WINDOW}th of that in windows of each text"
    parser.add_argument("--limit", type=int, metavar="N", help=f"the first N questions of each task, and {windows}")
    parser.add_argument("--keep", action="store_true", help="keep the pruned checkpoints in the work directory")
    parser.add_argument(
        "--page",
        type=Path,
        default=PAGE,
        metavar="FILE",
        help="default: docs/results/quality.md; rows are kept in a directory of that name, without .md",
    )
    asked = parser.parse_args()
    if asked.work.resolve().is_relative_to(PROJECT):
        parser.error("--work is in the project, into which no data may be copied: give a directory elsewhere")
    if asked.limit is not None and asked.limit < 2:
        parser.error("--limit is at least 2, since one question has no standard error")
    return asked


if __name__ == "__main__":
    sys.exit(main())
