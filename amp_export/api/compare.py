"""Compare criteria: prune a model by each of them and to each ratio, and measure the quality that is left."""

from __future__ import annotations

from pathlib import Path

from amp_export.api.points import Workshop, check_points, open_executor, refuse_own_options, told_how_to_resume
from amp_export.errors import RequestError
from amp_export.progress import Progress, Silent
from amp_export.sweeping.place import check_same, open_place, remove_earlier, save, shared_options, working_in
from amp_export.sweeping.points import Point
from amp_export.sweeping.table import PointTable, order
from amp_export.verb_options import CompareOptions

COMMAND = "compare"


def compare(
    model: str | Path,
    output: Path,
    options: CompareOptions,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> PointTable:
    """Prune a model by each criterion to each ratio, and measure quality.

    Each point is an output directory in `output`. The table of all is in compare.json, compare.md and compare.html.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The directory of the points.
        options: Criteria, ratios, and the options of pruning that all points share.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        overwrite: Replace the points of an earlier run.
        resume: Keep the points of an earlier run with the same options, and make those that are missing.
        progress: Where to show progress.

    Raises:
        RequestError: There is no criterion or no ratio, or one does not suit the model.
        OutputError: `output` holds something else, or points of another model or with other options.
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    refuse_own_options(options.prune)
    if not (options.criteria and options.ratios):
        raise RequestError("There is nothing to compare.\nGive at least one criterion and one ratio.")
    earlier = open_place(output, COMMAND, resume=resume, overwrite=overwrite)
    points = order([Point(criterion, ratio) for criterion in options.criteria for ratio in options.ratios])
    request = check_points(str(model), points, options.prune, revision=revision, progress=progress)
    table = PointTable(COMMAND, request.source.asked, request.sha256, shared_options(options.prune))
    if earlier is not None:
        check_same(output, earlier, table)
        table = earlier
    with open_executor(options.ray) as executor, working_in(output), told_how_to_resume(progress):
        workshop = Workshop(output, str(model), revision, options.prune, progress, executor=executor)
        if overwrite:
            remove_earlier(output, COMMAND)
        table = workshop.with_points(table, points)
        for number, point in enumerate(workshop.make(points), start=1):
            progress.note(f"Point {number} of {len(points)} is finished: {point.name}")
            table = workshop.with_points(table, points)
        save(output, table, progress)
    return table
