"""Report files: the same content in every format, and the manifest with their hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from amp_export.benchmarking.device_results import DeviceReport
from amp_export.benchmarking.results import BenchmarkReport
from amp_export.errors import MissingExtraError, NewerSchemaError, OutputError
from amp_export.evaluation.summaries import EvaluationSummary
from amp_export.options import ReportFormat
from amp_export.outputs.manifest import Manifest, package_versions
from amp_export.outputs.scratch import lock_output
from amp_export.outputs.staging import replace_text
from amp_export.parity.results import ParityReport
from amp_export.progress import Progress, Silent
from amp_export.reporting.checks import Check
from amp_export.reporting.html.page import to_html
from amp_export.reporting.junit import to_junit
from amp_export.reporting.markdown import to_markdown
from amp_export.reporting.report import Report, record_verdicts


def report_file(output: Path, form: ReportFormat) -> Path:
    """Return the path of a report of this format in an output directory."""
    return output / f"report.{form.value}"


def save_report(output: Path, report: Report, manifest: Manifest, *, progress: Progress | None = None) -> Manifest:
    """Write the report in every format that can be rendered here, and the manifest with their hashes.

    If the HTML page cannot be rendered, an earlier one is removed, since it would show an earlier report.

    Args:
        output: The output directory; if others may write to it, it is locked.
        report: The report.
        manifest: The output's manifest, with the hashes of all other files.
        progress: Reports a format that cannot be rendered.
    """
    # the page comes last: so that the other formats are kept if it fails
    texts = [form for form in ReportFormat if form is not ReportFormat.HTML]
    manifest = write_forms(output, report, replace(manifest, packages=package_versions()), texts)
    try:
        return write_forms(output, report, manifest, [ReportFormat.HTML])
    except MissingExtraError as error:
        report_file(output, ReportFormat.HTML).unlink(missing_ok=True)
        (progress or Silent()).note(f"report.html is not written. {error}")
        return write_forms(output, report, manifest, [])


def write_forms(output: Path, report: Report, manifest: Manifest, forms: Sequence[ReportFormat]) -> Manifest:
    """Write the report in these formats, and the manifest with their hashes.

    Raises:
        MissingExtraError: The page cannot be rendered here; nothing is written.
        OutputError: The directory cannot be written to.
    """
    texts = {report_file(output, form): _render(form, output, report, manifest) for form in forms}
    # all formats are hashed, so that a removed one leaves the manifest too
    names = [report_file(output, form).name for form in ReportFormat]
    try:
        if any(file.is_file() for file in texts):
            # if the process is killed before all are written, none is held against the hash of an earlier one
            manifest.without(file.name for file in texts).write(output)
        for file, text in texts.items():
            replace_text(file, text)
        return manifest.with_hashes(output, names).write(output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror} ({error.filename}).") from error


def _render(form: ReportFormat, output: Path, report: Report, manifest: Manifest) -> str:
    if form is ReportFormat.HTML:
        return to_html(report, manifest, output)
    writers = {ReportFormat.JSON: Report.to_json, ReportFormat.MD: to_markdown, ReportFormat.XML: to_junit}
    return writers[form](report)


def open_report(output: Path, manifest: Manifest) -> Report:
    """Return the report of an output directory; if it cannot be read, start a new one from the manifest.

    Args:
        output: The output directory.
        manifest: The output's manifest.

    Raises:
        NewerSchemaError: The report is from a newer version; this version could not write it back completely.
    """
    try:
        return Report.load(output).bound_to(manifest)
    except NewerSchemaError:
        raise
    except OutputError:
        return Report.of(manifest)


def open_output(output: Path) -> Manifest:
    """Return the manifest of an output that a command will add results to.

    Raises:
        OutputError: A file has changed, or the report is from a newer version: better found before anything runs.
    """
    manifest = Manifest.load(output)
    open_report(output, manifest)
    manifest.verify(output)
    return manifest


def update_report(
    output: Path,
    *,
    parity: ParityReport | None = None,
    benchmarks: Mapping[str, BenchmarkReport] | None = None,
    devices: Mapping[str, DeviceReport] | None = None,
    evaluations: Mapping[str, EvaluationSummary] | None = None,
    checks: tuple[Check, ...] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Add new sections to the report of an output directory, and their verdicts to its manifest.

    The report is read and written under a lock, so that commands that run at once keep one another's results.

    Raises:
        OutputError: The files that were judged have been replaced meanwhile.
    """
    with lock_output(output):
        manifest = Manifest.load(output)
        named = (section for sections in (benchmarks, devices, evaluations) for section in (sections or {}).values())
        for section in (parity, *named):
            if section is not None and not manifest.stands(section.judged):
                raise OutputError(
                    f"{output} was written to while this command ran: its files are not those that were checked.\n"
                    "The result is not recorded. Run the command again."
                )
        report = open_report(output, manifest)
        measured = parity is not None or benchmarks is not None or evaluations is not None
        report = replace(
            report,
            packages=package_versions(),
            parity=parity if parity is not None else report.parity,
            benchmarks={**(report.benchmarks or {}), **benchmarks} if benchmarks is not None else report.benchmarks,
            devices={**(report.devices or {}), **devices} if devices is not None else report.devices,
            evaluations={**(report.evaluations or {}), **evaluations}
            if evaluations is not None
            else report.evaluations,
            # gates that were checked before were checked against the earlier numbers
            checks=report.checks if checks is None and not measured else checks,
        )
        save_report(output, report, record_verdicts(manifest, report), progress=progress)
    return report
