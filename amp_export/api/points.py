"""What `compare` and `sweep` share: make the points that are missing, and read the numbers of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from amp_export.api.export import export
from amp_export.api.prune import prune
from amp_export.errors import RequestError
from amp_export.options import CriterionName
from amp_export.outputs.manifest import Manifest, package_versions
from amp_export.outputs.names import PRUNED
from amp_export.progress import Progress
from amp_export.pruning.dry_run import possible_candidates
from amp_export.pruning.expressible import fit_choices
from amp_export.pruning.request import PruneRequest, prepare, settings_of
from amp_export.reporting.files import open_output
from amp_export.sweeping.executors import Executor, InProcess, Job
from amp_export.sweeping.place import find_scores, is_pruned, save_numbers
from amp_export.sweeping.points import Point, read_point
from amp_export.sweeping.table import PointTable, find_fronts, order
from amp_export.verb_options import ExportOptions, PruneOptions


def refuse_own_options(options: PruneOptions) -> None:
    """Raise an error if options of `prune` are given that each point has its own of.

    Raises:
        RequestError: A ratio, a plan or scores are given.
    """
    given = [name for name in ("ratio", "plan", "scores") if getattr(options, name) is not None]
    if given:
        raise RequestError(
            f"{' and '.join(given)} cannot be shared by all points.\nLeave them out: each point has its own."
        )


def check_points(
    model: str, points: Sequence[Point], options: PruneOptions, *, revision: str | None, progress: Progress
) -> PruneRequest:
    """Check all points before any work is done.

    Returns:
        The request of the first.

    Raises:
        RequestError: A request is invalid; for an illegal ratio, the message names the nearest legal one.
    """
    requests: dict[CriterionName, PruneRequest] = {}
    for point in points:
        # a criterion may suit some models only; the rest of a request is the same for all ratios but the widths
        if point.criterion not in requests:
            requests[point.criterion] = prepare(
                model, _prune_options(options, point), revision=revision, progress=progress
            )
        request = requests[point.criterion]
        asked = _prune_options(options, point)
        fitted = fit_choices(asked, request.source.whole, asked.uniform)
        settings = settings_of(fitted, request.checkpoint, request.calibration, request.scores)
        assert settings is not None
        possible_candidates(request.checkpoint.raw_config, request.checkpoint.config, settings)
    return requests[points[0].criterion]


@dataclass(frozen=True)
class Workshop:
    """Makes the points of a directory.

    Attributes:
        output: The directory.
        model: The model as the user named it.
        revision: A branch, a tag or a commit of a repository on the hub, or None.
        prune: Options of `prune` that the points share.
        progress: Where to show progress.
        export: Options of `export`; None if nothing is exported.
        runtime: Name of the benchmark that times come from; None if nothing is timed.
        executor: Where points are pruned and exported.
    """

    output: Path
    model: str
    revision: str | None
    prune: PruneOptions
    progress: Progress
    export: ExportOptions | None = None
    runtime: str | None = None
    executor: Executor = field(default_factory=InProcess)

    def make(self, points: Sequence[Point]) -> Iterator[Point]:
        """Prune and export points, and yield each when it is finished; one that exists is checked instead.

        Each criterion scores the model once.

        Yields:
            Points, in the order in which they are finished.

        Raises:
            OutputError: A file of a point that exists has changed.
        """
        missing = [point for point in points if not self._is_made(point)]
        yield from (point for point in points if point not in missing)
        first: dict[CriterionName, Point] = {}
        for point in missing:
            if find_scores(self.output, point.criterion) is None:
                first.setdefault(point.criterion, point)
        yield from self._run(list(first.values()))
        yield from self._run([point for point in missing if point not in first.values()])

    def _is_made(self, point: Point) -> bool:
        if not is_pruned(self.output, point):
            return False
        manifest = open_output(self.output / point.name)
        return self.export is None or self.export.to in manifest.exports

    def _run(self, points: Sequence[Point]) -> Iterator[Point]:
        jobs = {self._job(point): point for point in points}
        for done in self.executor.run(make_point, list(jobs), self.progress):
            yield jobs[done]

    def _job(self, point: Point) -> Job:
        options = _prune_options(self.prune, point)
        options = replace(options, scores=find_scores(self.output, point.criterion))
        return Job(self.model, self.revision, self.output / point.name, options, self.export)

    def with_points(self, table: PointTable, points: Sequence[Point]) -> PointTable:
        """Return a table with the present numbers of its points and of more, and write it for programs."""
        known = order([*(each.point for each in table.points), *points])
        results = tuple(
            read_point(self.output, point, self.runtime) for point in known if is_pruned(self.output, point)
        )
        table = replace(table, points=results, fronts=find_fronts(results), packages=package_versions())
        save_numbers(self.output, table)
        return table


def make_point(job: Job, progress: Progress) -> None:
    """Prune a model into an output directory, and export it there; what is there already stays."""
    if not (job.output / PRUNED).is_dir():
        prune(job.model, job.output, job.prune, revision=job.revision, progress=progress)
    if job.export is not None and job.export.to not in Manifest.load(job.output).exports:
        export(job.output / PRUNED, job.output, job.export, progress=progress)


@contextmanager
def open_executor(ray: str | None) -> Iterator[Executor]:
    """Yield what makes points: this process, or the Ray cluster at an address.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: The cluster cannot be reached.
    """
    if ray is None:
        yield InProcess()
        return
    from amp_export.sweeping.ray_cluster import connected_to

    with connected_to(ray) as executor:
        yield executor


@contextmanager
def told_how_to_resume(progress: Progress) -> Iterator[None]:
    """Say how to go on if the block ends early."""
    advice = "Finished points are kept. The same command with --resume goes on from there."
    try:
        yield
    except KeyboardInterrupt as interruption:
        interruption.add_note(advice)
        raise
    except BaseException:
        progress.note(advice)
        raise


def _prune_options(options: PruneOptions, point: Point) -> PruneOptions:
    return replace(options, criterion=point.criterion, ratio=point.asked)
