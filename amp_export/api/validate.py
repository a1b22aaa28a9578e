"""Check the parity of an export in an output directory."""

from __future__ import annotations

from pathlib import Path

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import UnsupportedModelError
from amp_export.options import Format
from amp_export.outputs.lookup import exported_checkpoint, require_export
from amp_export.parity.case_files import read_cases
from amp_export.parity.comparison import compare, with_explanation
from amp_export.parity.results import ParityReport, bind
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_output, update_report
from amp_export.verb_options import ValidateOptions


def validate(output: Path, options: ValidateOptions | None = None, *, progress: Progress | None = None) -> ParityReport:
    """Check the parity of an export in an output directory, and write the result into its report.

    Args:
        output: The output directory of `export` or `convert`.
        options: Options, such as the export to validate.
        progress: Where to show progress.

    Returns:
        The result, whether parity holds or not.

    Raises:
        OutputError: `output` contains no such export, or its checkpoint is missing.
        UnsupportedModelError: An explanation was requested, but the export is not ONNX, or no intermediate value can be
            matched.
    """
    from amp_export.exporters.onnx.sessions import exported_graphs
    from amp_export.parity.explain.explanation import plan_taps

    options, progress = options or ValidateOptions(), progress or Silent()
    to = options.to
    manifest = open_output(output)
    if options.explain and to is not Format.ONNX:
        raise UnsupportedModelError("--explain works on ONNX graphs only.\nLeave it out, or give --to onnx.")
    require_export(output, manifest, to)
    checkpoint = options.reference or exported_checkpoint(output, manifest)
    graph, opened = output / to, open_checkpoint(checkpoint)
    cases = None if options.cases is None else read_cases(options.cases, opened.config)
    tap_plan = plan_taps(checkpoint, exported_graphs(graph)) if options.explain else None
    with opened.snapshot.held():
        report = compare(
            checkpoint, graph, threads=options.threads, provider=options.provider, progress=progress, cases=cases
        )
        if tap_plan is not None:
            report = with_explanation(report, tap_plan, cases, progress=progress)
    report = bind(report, manifest.judged(to))
    update_report(output, parity=report, progress=progress)
    return report
