"""Where independent jobs run: in this process, one after another, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amp_export.progress import Progress
from amp_export.verb_options import ExportOptions, PruneOptions


@dataclass(frozen=True)
class Job:
    """A point to prune and export.

    Attributes:
        model: The model as the user named it.
        revision: A branch, a tag or a commit of a repository on the hub, or None.
        output: The point's output directory.
        prune: Options of `prune`.
        export: Options of `export`; None if nothing is exported.
    """

    model: str
    revision: str | None
    output: Path
    prune: PruneOptions
    export: ExportOptions | None


Work = Callable[[Job, Progress], None]
"""Runs a job. It is a function of a module, so that other processes find it by its name."""


class Executor(Protocol):
    """Runs independent jobs."""

    def run(self, work: Work, jobs: Sequence[Job], progress: Progress) -> Iterator[Job]:
        """Yield jobs as they finish; an error of one ends all."""
        ...


class InProcess:
    """Runs jobs in this process, one after another."""

    def run(self, work: Work, jobs: Sequence[Job], progress: Progress) -> Iterator[Job]:
        """Yield jobs as they finish."""
        for job in jobs:
            work(job, progress)
            yield job
