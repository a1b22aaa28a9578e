"""Check the parity of an export in an output directory."""

from __future__ import annotations

from pathlib import Path

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.files import find_parts
from amp_export.options import Format
from amp_export.outputs.lookup import exported_checkpoint, find_whole, require_export
from amp_export.outputs.manifest import Manifest
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
    graph = output / to
    checkpoint, whole = _find_reference(output, manifest, options, in_parts=find_parts(graph) is not None)
    opened = open_checkpoint(checkpoint)
    if options.explain and whole is not None:
        raise UnsupportedModelError(
            "--explain compares the values within one graph, and this export has several.\nLeave it out, or explain an "
            "export of its language model: amp-export export --model OUT/pruned."
        )
    cases = None if options.cases is None else read_cases(options.cases, opened.config)
    tap_plan = plan_taps(checkpoint, exported_graphs(graph)) if options.explain else None
    with opened.snapshot.held():
        report = compare(
            checkpoint,
            graph,
            whole=whole,
            threads=options.threads,
            provider=options.provider,
            progress=progress,
            cases=cases,
        )
        if tap_plan is not None:
            report = with_explanation(report, tap_plan, cases, progress=progress)
    report = bind(report, manifest.judged(to))
    update_report(output, parity=report, progress=progress)
    return report


def _find_reference(
    output: Path, manifest: Manifest, options: ValidateOptions, *, in_parts: bool
) -> tuple[Path, Path | None]:
    """Return the checkpoint that an export is compared with, and for parts the vision-language model that it is of.

    Raises:
        OutputError: One of them no longer exists, or has changed.
    """
    if options.reference is not None:
        if not in_parts:
            return options.reference, None
        source = resolve_model(options.reference)
        return source.path, source.whole
    whole = find_whole(output, manifest, advice="Give the model with --reference.") if in_parts else None
    return exported_checkpoint(output, manifest), whole
