"""Run all steps: prune, export, validate, benchmark and report, into one output directory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.api.export import adopt_export
from amp_export.benchmarking.comparison import benchmark_models
from amp_export.benchmarking.runners import require
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.setup import RUNTIMES, Setup
from amp_export.benchmarking.workloads import Sweep
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.discovery.learning import learn, record
from amp_export.documents import as_read_back
from amp_export.errors import OutputError, RequestError
from amp_export.exporters.dispatch import exported_quantization
from amp_export.exporters.onnx.parts import PartsOf
from amp_export.exporting.engines import check_dtype
from amp_export.exporting.gguf import check_plan
from amp_export.exporting.quantized import fit_blocks
from amp_export.exporting.run import export_as
from amp_export.exporting.settings import ExportSettings, choose_settings
from amp_export.options import Dtype, Format
from amp_export.outputs.lookup import open_source_checkpoint, source_whole
from amp_export.outputs.manifest import Manifest, Step
from amp_export.outputs.names import PARTIAL, PRUNED, WHOLE
from amp_export.outputs.scratch import translate_os_errors
from amp_export.outputs.staging import check_output, is_ours, link_files, staged_output
from amp_export.parity.comparison import compare
from amp_export.parity.results import bind
from amp_export.progress import Progress, Silent
from amp_export.pruning.pipeline import prune_into
from amp_export.pruning.request import prepare
from amp_export.quantizing.choosing import refine
from amp_export.reporting.files import open_report, save_report
from amp_export.reporting.report import Report, record_verdicts
from amp_export.verb_options import ConvertOptions, ExportOptions

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint


def convert(
    model: str | Path,
    output: Path,
    options: ConvertOptions,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Prune a model, export it, check parity, and measure the speedup.

    If a step after pruning fails, `output` keeps what was finished, and `resume` goes on from there.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The output directory.
        options: Options of all steps.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        overwrite: Replace an earlier result.
        resume: Run only the unfinished steps of an earlier run with the same options; all steps if there is none.
        progress: Where to show progress.

    Returns:
        The report, whether parity holds or not.

    Raises:
        OutputError: The earlier run had other options.
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    check_can_measure(options.export)
    if resume and is_ours(output):
        return _resume({"model": str(model), "revision": revision}, output, options, progress)
    check_output(output, overwrite=overwrite)
    wanted = fit_blocks(options.prune, options.export)
    request = prepare(model, wanted, revision=revision, learn=learn, progress=progress)
    check_plan(
        request.checkpoint.config,
        options.export.to,
        differ=request.may_differ,
        fewer_heads=request.may_remove_heads,
    )
    choices = _choose(request.checkpoint, options, request.source.whole)
    with staged_output(output, overwrite=overwrite) as folder:
        _, manifest = prune_into(folder, request, progress)
        record(request.checkpoint.config.architecture, folder)
        manifest = replace(manifest, unfinished=tuple(Step), request=_record(options)).with_missing_hashes(folder)
        run = _Run(folder, request.checkpoint, choices, options, progress)
        report, failure = _finish(run, manifest, Report.of(manifest))
    return _report_or_raise(output, report, failure, progress)


def _resume(source: Mapping[str, str | None], output: Path, options: ConvertOptions, progress: Progress) -> Report:
    """Run the unfinished steps of an output.

    Args:
        source: The model, and its revision or None.
        output: The output directory.
        options: Options of all steps.
        progress: Where to show progress.

    Raises:
        OutputError: The output was made of another model, with other options, or its files have changed.
    """
    manifest = Manifest.load(output)
    manifest.verify(output)
    _check_same_request(source, output, manifest, options)
    if not manifest.unfinished:
        progress.note(f"All steps are finished in {output}.")
        return Report.load(output)
    advice = "Or run all steps again with --overwrite."
    dense = open_source_checkpoint(output, manifest, advice=advice)
    choices = _choose(dense, options, source_whole(output, manifest, advice=advice))
    with staged_output(output, overwrite=True) as folder:
        link_files(output, folder)
        run = _Run(folder, dense, choices, options, progress)
        report, failure = _finish(run, manifest, open_report(folder, manifest))
    return _report_or_raise(output, report, failure, progress)


def _report_or_raise(output: Path, report: Report, failure: Exception | None, progress: Progress) -> Report:
    if failure is None:
        return report
    progress.note(f"What was finished is in {output}. The same command with --resume goes on from there.")
    with translate_os_errors(output):
        raise failure


def _choose(dense: Checkpoint, options: ConvertOptions, whole: Path | None) -> ExportSettings:
    choices = choose_settings(dense, options.export, whole)
    if choices.limits is not None:
        # reject limits that the benchmark does not fit before exporting both models
        Sweep().workloads([dense.config], [choices.limits])
    return choices


def _record(options: ConvertOptions) -> dict[str, Any]:
    """Return the options that decide on files, as JSON has them."""
    return as_read_back({"prune": asdict(options.prune), "export": asdict(options.export)})


def _check_same_request(
    source: Mapping[str, str | None], output: Path, manifest: Manifest, options: ConvertOptions
) -> None:
    now = {**source, **_flatten(_record(options))}
    first = {"model": manifest.source.asked, "revision": manifest.source.revision}
    before = {**first, **_flatten(manifest.request or {})}
    other = [f"{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]]
    if other:
        raise OutputError(
            f"{output} cannot be resumed, since it was made with other options: {'; '.join(other)}.\nGive the options "
            "of before, or run all steps again with --overwrite."
        )


def _flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{verb}.{name}": value for verb, options in record.items() for name, value in options.items()}


def check_can_measure(options: ExportOptions) -> None:
    """Raise an error if the export cannot be validated and benchmarked here, before any work is done.

    Raises:
        MissingExtraError: The runtime is not installed.
        RequestError: The runtime cannot compute in this dtype.
    """
    if options.to is not Format.TENSORRT:
        require(Setup(RUNTIMES[options.to]))
    if options.to is Format.ONNX and options.dtype is Dtype.BFLOAT16:
        raise RequestError(
            "ONNX Runtime's CPU provider has no bfloat16 arithmetic, so a bfloat16 graph can be neither validated nor "
            "benchmarked here.\nRun the steps that work: amp-export prune, then amp-export export --dtype bfloat16."
        )


@dataclass(frozen=True)
class _Run:
    """The steps after pruning.

    Attributes:
        folder: Directory of the output, while it is staged.
        dense: The dense checkpoint.
        choices: Settings of the export.
        options: Options of all steps.
        progress: Where to show progress.
    """

    folder: Path
    dense: Checkpoint
    choices: ExportSettings
    options: ConvertOptions
    progress: Progress

    @property
    def tried(self) -> Format | None:
        """The export that this machine can run; None if there is none.

        An engine for another GPU cannot run here. Its graph is checked instead, but does not show the engine's speed.
        """
        if self.choices.job is None or self.choices.job.runs_here:
            return self.choices.format
        return None if self.choices.dtype is Dtype.BFLOAT16 else Format.ONNX

    def export(self, manifest: Manifest, report: Report) -> tuple[Manifest, Report]:
        """Export the pruned checkpoint."""
        pruned = open_checkpoint(self.folder / PRUNED)
        if self.choices.job is not None:
            check_dtype(pruned, self.choices.dtype, progress=self.progress)
        with self._scratch("export") as made:
            choices = refine(pruned, self.choices, progress=self.progress)
            if choices.parts is not None:
                choices = replace(choices, parts=PartsOf(self.folder / WHOLE))
            exported = export_as(made, pruned, choices, progress=self.progress)
            return adopt_export(self.folder, made, manifest, exported), report

    def validate(self, manifest: Manifest, report: Report) -> tuple[Manifest, Report]:
        """Check the parity of the export, or of the graph that it was built from."""
        if self.tried is None:
            self.progress.note(
                "Neither the engine nor its bfloat16 graph can run on this machine. Check the engine on the device."
            )
            return manifest, report
        if self.tried is not self.choices.format:
            self.progress.note(
                "The engine cannot run on this machine. Checking the graph that it was built from instead."
            )
        graph = self.folder / self.tried
        whole = self.folder / WHOLE if self.choices.parts is not None else None
        threads = self.options.threads
        parity = compare(self.folder / PRUNED, graph, whole=whole, threads=threads, progress=self.progress)
        return manifest, replace(report, parity=bind(parity, manifest.judged(self.tried)))

    def benchmark(self, manifest: Manifest, report: Report) -> tuple[Manifest, Report]:
        """Measure the export against the dense model's."""
        to = self.choices.format
        if self.tried is not to:
            return manifest, report
        # the dense export is only needed for the benchmark, and is as large as the result, so it is removed
        with self._scratch("dense") as scratch:
            choices = replace(self.choices, via=manifest.exporters[to])
            if choices.quantization is not None:
                # the same weights have 8 bits; how they are rounded changes no speed
                choices = replace(choices, quantization=exported_quantization(self.folder / to))
            if choices.parts is not None:
                # it was not pruned
                choices = replace(choices, parts=replace(choices.parts, encoder=self.folder / to))
            made = export_as(scratch, self.dense, choices, progress=self.progress, name="the dense model")
            with self.progress.step("Benchmarking dense against pruned") as advance:
                benchmark = benchmark_models(
                    made.folder,
                    self.folder / to,
                    setup=Setup(RUNTIMES[to], threads=self.options.threads),
                    sampling=Sampling(rounds=self.options.rounds, time_limit=self.options.time_limit),
                    on_progress=advance,
                )
        benchmark = replace(benchmark, judged=manifest.judged(to))
        return manifest, replace(report, benchmarks={benchmark.name: benchmark})

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        """Yield an empty directory that is removed afterwards, whether the step fails or not."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f".{name}{PARTIAL}") as scratch:
            yield Path(scratch)


def _finish(run: _Run, manifest: Manifest, report: Report) -> tuple[Report, Exception | None]:
    """Run the unfinished steps, and write manifest and report, even if one of them fails.

    Returns:
        The report, and the error of the step that failed, or None.
    """
    steps = {Step.EXPORT: run.export, Step.VALIDATE: run.validate, Step.BENCHMARK: run.benchmark}
    failure = None
    while manifest.unfinished and failure is None:
        step, *others = manifest.unfinished
        try:
            manifest, report = steps[step](manifest, report)
        except Exception as error:  # noqa: BLE001  whatever fails, the finished steps are kept
            failure = error
        else:
            manifest = replace(manifest, unfinished=tuple(others))
    save_report(run.folder, report, record_verdicts(manifest, report), progress=run.progress)
    return report, failure
