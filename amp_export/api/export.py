"""Export a checkpoint, pruned or not, into an output directory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from amp_export.checkpoints.hashing import hash_weights
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.discovery.learning import learn
from amp_export.errors import OutputError
from amp_export.exporting.engines import check_dtype
from amp_export.exporting.run import ExportResult, export_as
from amp_export.exporting.settings import choose_settings
from amp_export.options import Format, ReportFormat
from amp_export.outputs.lookup import record_source
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.scratch import scratch_beside
from amp_export.outputs.staging import check_output, extended_output, is_ours, staged_output
from amp_export.progress import Progress, Silent
from amp_export.quantizing.choosing import refine
from amp_export.reporting.files import open_report, report_file, save_report
from amp_export.reporting.report import record_verdicts
from amp_export.verb_options import ExportOptions


def export(
    model: str | Path,
    output: Path,
    options: ExportOptions | None = None,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a checkpoint into the folder of its format in `output`; an engine also leaves its graph in `onnx`.

    The pruned checkpoint of an output directory can be exported into that same directory, whose other files are kept.
    Of a vision-language model, ONNX graphs of all parts are written: see `exporters.onnx.parts`.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        output: The output directory.
        options: Options of the export.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        overwrite: Replace an earlier result.
        progress: Where to show progress.

    Raises:
        OutputError: The export exists, and `overwrite` is false.
        AmpExportError: See `amp_export.errors`.
    """
    options = options or ExportOptions()
    progress = progress or Silent()
    extend = _is_own_checkpoint(model, output)
    if extend:
        _check_formats(output, options.to, overwrite=overwrite)
    else:
        check_output(output, overwrite=overwrite)
    source = resolve_model(model, revision=revision, allow_pickle=options.allow_pickle, on_status=progress.note)
    learn(source.path, progress)
    checkpoint = open_checkpoint(source.path)
    settings = choose_settings(checkpoint, options, source.whole)
    if source.whole is not None and settings.parts is None:
        progress.note(f"--to {options.to} holds the language model alone; --to onnx holds all parts.")
    if settings.job is not None:
        check_dtype(checkpoint, settings.dtype, progress=progress)
    settings = refine(checkpoint, settings, progress=progress)
    if extend:
        Manifest.load(output).verify(output)
        with scratch_beside(output) as scratch:
            with checkpoint.snapshot.held():
                exported = export_as(scratch, checkpoint, settings, progress=progress)
            _extend(output, scratch, exported, overwrite=overwrite, progress=progress)
    else:
        with staged_output(output, overwrite=overwrite) as folder:
            with checkpoint.snapshot.held():
                exported = export_as(folder, checkpoint, settings, progress=progress)
                sha256 = hash_weights(checkpoint)
            record = record_source(source, checkpoint.path, sha256)
            manifest = Manifest(source=record, config_before=dict(checkpoint.raw_config))
            record_export(manifest, exported).save(folder)
    return replace(exported, folder=output / options.to.value)


def _extend(output: Path, made: Path, exported: ExportResult, *, overwrite: bool, progress: Progress) -> None:
    """Add exports to an output, and drop the results for those that they replace."""
    with extended_output(output) as folder:
        # another command may have exported meanwhile
        _check_formats(folder, exported.format, overwrite=overwrite)
        manifest = adopt_export(folder, made, Manifest.load(folder), exported)
        report = open_report(folder, manifest)
        manifest = record_verdicts(manifest, report)
        if report_file(folder, ReportFormat.JSON).is_file():
            save_report(folder, report, manifest, progress=progress)
        else:
            manifest.write(folder)


def adopt_export(folder: Path, made: Path, manifest: Manifest, exported: ExportResult) -> Manifest:
    """Move the folders of a finished export into an output, and return the manifest with the export and its hashes."""
    formats = [entry.name for entry in made.iterdir()]
    for name in formats:
        shutil.rmtree(folder / name, ignore_errors=True)
        (made / name).rename(folder / name)
    return record_export(manifest, exported).with_hashes(folder, formats)


def _check_formats(output: Path, to: Format, *, overwrite: bool) -> None:
    """Raise OutputError if an export would replace one that exists.

    Raises:
        OutputError: It would, and `overwrite` is false.
    """
    # an engine comes with the graph that it is built from
    formats = (to, Format.ONNX) if to is Format.TENSORRT else (to,)
    for name in formats:
        if (output / name).exists() and not overwrite:
            raise OutputError(f"{output / name} exists already.\nGive --overwrite to replace it.")


def record_export(manifest: Manifest, exported: ExportResult) -> Manifest:
    """Return the manifest with an export added, and, for an engine, the graph that it was built from."""
    for made in (Format.ONNX, Format.TENSORRT) if exported.format is Format.TENSORRT else (exported.format,):
        manifest = manifest.with_export(made, exported.dtype, exported.via, exported.options)
    return manifest


def _is_own_checkpoint(model: str | Path, output: Path) -> bool:
    """Return whether the checkpoint is in the output directory that it is exported into."""
    return is_ours(output) and Path(model).is_dir() and output.resolve() in Path(model).resolve().parents
