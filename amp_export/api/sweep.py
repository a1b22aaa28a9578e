"""Sweep ratios: prune, export and time a model at each of them, or search the one that meets conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from amp_export.api.benchmark import benchmark
from amp_export.api.convert import check_can_measure
from amp_export.api.draft import draft
from amp_export.api.export import export
from amp_export.api.points import Workshop, check_points, open_executor, refuse_own_options, told_how_to_resume
from amp_export.api.validate import validate
from amp_export.architectures import Kind
from amp_export.benchmarking.drafting.results import read_measurement
from amp_export.benchmarking.runners import genai, require
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.setup import choose_setup
from amp_export.benchmarking.workloads import PHASES, Sweep
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.errors import RatioError, RequestError, VerificationError
from amp_export.exporting.drafting import prepare_pair
from amp_export.exporting.quantized import fit_blocks
from amp_export.exporting.settings import choose_settings
from amp_export.inputs.texts import Calibration
from amp_export.options import Format, Phase
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import DRAFT
from amp_export.outputs.staging import is_ours
from amp_export.progress import Progress, Silent
from amp_export.pruning.candidates import Candidate
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.criteria import choose_criterion
from amp_export.pruning.defaults import choose_plan_settings
from amp_export.pruning.dry_run import possible_candidates
from amp_export.pruning.expressible import fit_choices
from amp_export.pruning.request import PruneRequest
from amp_export.reporting.files import open_output
from amp_export.reporting.report import Report
from amp_export.sweeping.choosing import choose, closest, find_peak, search
from amp_export.sweeping.conditions import Condition, read_conditions
from amp_export.sweeping.place import DENSE, check_same, open_place, remove_earlier, save, shared_options, working_in
from amp_export.sweeping.points import Point, PointResult, read_point
from amp_export.sweeping.summary import describe
from amp_export.sweeping.table import Choice, PointTable, order
from amp_export.verb_options import BenchmarkOptions, DraftOptions, PruneOptions, SweepOptions, ValidateOptions

COMMAND = "sweep"


def sweep(
    model: str | Path,
    output: Path,
    options: SweepOptions,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> PointTable:
    """Prune a model to several ratios, export each result, and measure quality, size and latency.

    Each point is an output directory in `output`, and so is the dense model's export, in `dense`. The table of all is
    in sweep.json, sweep.md and sweep.html. With conditions, points are searched by bisection, and the one with least
    loss of quality that meets them is chosen; its export is checked for parity. As drafts, points are searched for the
    fastest.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The directory of the points.
        options: Ratios, conditions, and the options that all points share.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        overwrite: Replace the points of an earlier run.
        resume: Keep the points of an earlier run with the same options, and make those that are missing.
        progress: Where to show progress.

    Returns:
        The table, whether the conditions are met or not.

    Raises:
        RequestError: There are neither ratios nor conditions nor drafts, the conditions cannot be read, or name what
            cannot be measured of this model, or it cannot be measured as a draft.
        VerificationError: A text with drafts is not the dense model's.
        OutputError: `output` holds something else, or points of another model or with other options.
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    refuse_own_options(options.prune)
    conditions = () if options.until is None else read_conditions(options.until)
    if not (options.ratios or conditions or options.draft):
        raise RequestError(
            'There is nothing to sweep.\nGive --ratios 0.1:0.5:0.1, --until "decode_ms<=35", --draft, or some of them.'
        )
    options = replace(options, prune=fit_blocks(options.prune, options.export))
    drafting = _draft_options(options) if options.draft else None
    timing = replace(options.benchmark, to=options.export.to, against=output / DENSE)
    setup = choose_setup(timing)
    check_can_measure(options.export)
    require(setup)
    earlier = open_place(output, COMMAND, resume=resume, overwrite=overwrite)
    source = resolve_model(model, revision=revision, allow_pickle=options.prune.allow_pickle, on_status=progress.note)
    fitted = fit_choices(options.prune, source.whole, options.prune.uniform)
    options = replace(options, prune=fitted)
    checkpoint = open_checkpoint(source.path)
    criterion = choose_criterion(checkpoint.config, options.prune)
    points = order([Point(criterion, ratio) for ratio in options.ratios or _legal_ratios(checkpoint, options.prune)])
    request = check_points(str(model), points, options.prune, revision=revision, progress=progress)
    _check_export(request, options)
    if drafting is not None:
        prepare_pair(request.checkpoint, request.checkpoint, drafting)
    _refuse_unmeasured(request, conditions)
    shared = shared_options(options.prune, options.export, options.benchmark)
    table = PointTable(COMMAND, request.source.asked, request.sha256, shared)
    if earlier is not None:
        check_same(output, earlier, table)
        table = replace(earlier, choice=None)
    with open_executor(options.ray) as executor, working_in(output), told_how_to_resume(progress):
        workshop = Workshop(output, str(model), revision, options.prune, progress, options.export, setup.name, executor)
        run = _Run(workshop, table, timing, drafting)
        if overwrite:
            remove_earlier(output, COMMAND)
        run.export_dense()
        if options.until is not None:
            run.search(points, conditions, options.until)
        elif options.draft and not options.ratios:
            run.search_draft(points)
        else:
            run.measure(points)
        save(output, run.table, progress)
    return run.table


def _draft_options(options: SweepOptions) -> DraftOptions:
    """Return how points are measured as drafts: their weights are those of the export.

    Raises:
        RequestError: The export is for a runtime that does not measure drafts.
        MissingExtraError: onnxruntime-genai, which does, is not installed.
    """
    export = options.export
    if export.to is not Format.ONNX:
        raise RequestError(
            f"--draft measures in onnxruntime-genai, which does not read --to {export.to}.\nLeave one of the two out."
        )
    genai.require()
    return DraftOptions(
        dtype=export.dtype,
        weights=export.weights,
        block_size=export.block_size,
        threads=options.benchmark.threads,
    )


def _legal_ratios(checkpoint: Checkpoint, options: PruneOptions) -> tuple[float, ...]:
    """Return whole percents that are legal for a model, without those that lead to the same widths as the one before.

    Raises:
        RequestError: None is legal.
    """
    found: dict[tuple[Candidate, ...], float] = {}
    refusal: RatioError | None = None
    costs = ModelCosts.of(checkpoint.config)
    for percent in range(1, 100):
        try:
            settings = choose_plan_settings(checkpoint.config, percent / 100, options)
            candidates = possible_candidates(checkpoint.raw_config, checkpoint.config, settings, costs=costs)
            found.setdefault(candidates, percent / 100)
        except RatioError as error:
            refusal = refusal or error
    if not found:
        assert refusal is not None, "either it is legal or it is refused"
        raise refusal
    return tuple(found.values())


def _check_export(request: PruneRequest, options: SweepOptions) -> None:
    """Raise an error if exports cannot be timed on this machine, or not as it is asked for.

    Raises:
        RequestError: An engine is for another GPU than the one in this machine, or a workload does not fit the model.
    """
    settings, timing = choose_settings(request.checkpoint, options.export), options.benchmark
    if settings.job is not None and not settings.job.runs_here:
        raise RequestError(
            "A sweep times every export on this machine, and an engine for another GPU does not run here.\n"
            "Leave --to out, to sweep with ONNX graphs, or run the sweep on a machine with that GPU."
        )
    limits = [] if settings.limits is None else [settings.limits]
    Sweep(timing.batch, timing.context, timing.generate).workloads([request.checkpoint.config], limits)
    Sampling(rounds=timing.rounds, min_effect=timing.min_effect, time_limit=timing.time_limit)


def _refuse_unmeasured(request: PruneRequest, conditions: Sequence[Condition]) -> None:
    """Raise an error if conditions name numbers that cannot be measured of this model.

    Raises:
        RequestError: One does.
    """
    config, samples = request.checkpoint.config, request.calibration
    kind = config.architecture.kind
    missing = {}
    if kind is not Kind.DECODER:
        missing["perplexity"] = f"a {config.class_name} does not predict the next token"
    elif not isinstance(samples, Calibration) or not samples.held_out:
        missing["perplexity"] = "there is no text held out from calibration, which takes five rows or more"
    if Phase.DECODE not in PHASES[kind]:
        missing["decode_ms"] = f"a {config.class_name} generates no tokens; its time is prefill_ms"
    for condition in conditions:
        if condition.name in missing:
            raise RequestError(
                f"--until limits {condition.name}, which cannot be measured here: {missing[condition.name]}.\n"
                "Leave that condition out."
            )


class _Run:
    """Makes, times and chooses points; the table grows with each."""

    def __init__(
        self, workshop: Workshop, table: PointTable, timing: BenchmarkOptions, drafting: DraftOptions | None
    ) -> None:
        self.workshop = workshop
        self.table = table
        self.timing = timing
        self.drafting = drafting

    @property
    def output(self) -> Path:
        return self.workshop.output

    def export_dense(self) -> None:
        """Export the dense model once, to time every point against it."""
        workshop, folder = self.workshop, self.output / DENSE
        options = workshop.export
        assert options is not None
        self.table = workshop.with_points(self.table, [])
        if is_ours(folder):
            open_output(folder)
            return
        export(workshop.model, folder, options, revision=workshop.revision, progress=workshop.progress)

    def measure(self, points: Sequence[Point]) -> list[PointResult]:
        """Make points, then time them one after another, since nothing else may run meanwhile."""
        for _ in self.workshop.make(points):
            self.table = self.workshop.with_points(self.table, points)
        found = []
        for number, point in enumerate(points, start=1):
            self._time(point)
            self.table = self.workshop.with_points(self.table, points)
            if len(points) > 1:
                self.workshop.progress.note(f"Point {number} of {len(points)} is finished: {point.name}")
            found.append(read_point(self.output, point, self.workshop.runtime))
        return found

    def _time(self, point: Point) -> None:
        folder, runtime = self.output / point.name, self.workshop.runtime
        report = Report.load(folder).bound_to(Manifest.load(folder))
        if runtime not in (report.benchmarks or {}):
            benchmark(folder, self.timing, progress=self.workshop.progress)
        if self.drafting is not None and read_measurement(folder) is None:
            self._draft(folder, self.drafting)

    def _draft(self, folder: Path, options: DraftOptions) -> None:
        measured = draft(folder, options, overwrite=True, progress=self.workshop.progress).measurement
        if measured is not None and not measured.same:
            raise VerificationError(
                f"With {folder.name} as the draft, a text is not the dense model's.\n{folder / DRAFT} has both models, "
                "and what was measured."
            )

    def search_draft(self, points: Sequence[Point]) -> None:
        """Measure points until the fastest draft is found, if speed rises with the ratio up to it and then falls."""

        def measure(number: int) -> float:
            (result,) = self.measure([points[number]])
            speedup = result.numbers["draft_speedup"]
            self.workshop.progress.note(f"{result.name}: x {speedup:.2f} as a draft.")
            return speedup

        find_peak(len(points), measure)

    def search(self, points: Sequence[Point], conditions: Sequence[Condition], until: str) -> None:
        """Measure points until the one that meets the conditions is found, or it is known that none does."""

        def measure(number: int) -> PointResult:
            (result,) = self.measure([points[number]])
            self.workshop.progress.note(f"{result.name}: {describe(result, conditions)}.")
            return result

        search(len(points), conditions, measure)
        results = [each for each in self.table.points if each.point in set(points)]
        found = choose(results, conditions)
        shown = found or closest(results, conditions)
        held = {} if shown is None else {str(each): each.holds(shown.numbers, shown.dense) for each in conditions}
        parity = None if found is None else self._validate(found)
        choice = Choice(until, None if shown is None else shown.name, found is not None, held, parity)
        self.table = replace(self.table, choice=choice)

    def _validate(self, result: PointResult) -> bool:
        """Return whether parity holds for the export of a point; it is checked if it was not yet."""
        folder = self.output / result.name
        report = Report.load(folder)
        if report.parity is not None:
            return report.parity.holds
        assert self.timing.to is not None
        options = ValidateOptions(to=self.timing.to, threads=self.timing.threads)
        return validate(folder, options, progress=self.workshop.progress).holds
