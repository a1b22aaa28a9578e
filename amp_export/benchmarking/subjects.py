"""Subjects of a benchmark: the dense and the pruned model in the runtime's format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from amp_export.benchmarking.setup import Setup
from amp_export.errors import OutputError
from amp_export.exporters.dispatch import (
    exported_cache_length,
    exported_logits,
    exported_operators,
    exported_opset,
    exported_quantization,
)
from amp_export.exporters.executorch.programs import read_facts
from amp_export.exporters.files import find_parts
from amp_export.exporters.onnx.parts import PartsOf
from amp_export.exporters.tensorrt.engines import EngineFacts
from amp_export.exporters.tensorrt.running import check_runs_here
from amp_export.exporting.engines import prepare_engine
from amp_export.exporting.run import export_as
from amp_export.exporting.settings import ExportSettings
from amp_export.options import Dtype, Format, Logits, Operators, Opset, Via
from amp_export.outputs.lookup import (
    exported_checkpoint,
    open_source_checkpoint,
    require_export,
    source_checkpoint,
    source_whole,
    which_export,
)
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import PRUNED, SOURCE
from amp_export.outputs.scratch import scratch_beside
from amp_export.progress import Progress
from amp_export.verb_options import ExportOptions

_ADVICE = "Or export the dense model, and name that output with --against."


@contextlib.contextmanager
def find_subjects(
    output: Path, against: Path | None, setup: Setup, manifest: Manifest, progress: Progress
) -> Iterator[tuple[Path, Path, Setup]]:
    """Yield the dense and the pruned model in the runtime's format, and the setup.

    Without `against`, the dense model is exported temporarily.

    Args:
        output: The output directory that holds the pruned model.
        against: The output directory to compare with, or None.
        setup: The requested setup.
        manifest: The output's manifest.
        progress: Shows progress.

    Yields:
        The folders of the dense and of the pruned model, and the setup, with the dtype for PyTorch.

    Raises:
        OutputError: One of the outputs does not hold the format or the checkpoint that the runtime needs.
    """
    to = setup.format
    if to is None:
        dense = _against(against, to) if against is not None else _dense_checkpoint(output, manifest)
        dtype = manifest.exports.get(which_export(output), Dtype.FLOAT32)
        yield dense, _checkpoint(output, manifest), replace(setup, dtype=dtype)
        return
    require_export(output, manifest, to, why=f", which {setup.runtime} runs")
    if against is not None:
        yield _against(against, to), output / to, setup
        return
    with scratch_beside(output) as scratch:
        yield export_dense(output, to, manifest, scratch, progress), output / to, setup


def judged_part(output: Path, setup: Setup) -> str:
    """Return the part of an output that a setup runs: an export, or the checkpoint that PyTorch loads."""
    if setup.format is not None:
        return setup.format.value
    return PRUNED if (output / PRUNED).is_dir() else SOURCE


def _checkpoint(output: Path, manifest: Manifest) -> Path:
    """Return an output's checkpoint for PyTorch: the pruned one, or the exported one if nothing was pruned."""
    return exported_checkpoint(output, manifest, advice="Export it again, and measure that output.")


def _against(against: Path, to: Format | None) -> Path:
    """Return what a runtime loads of the output to compare with.

    Raises:
        OutputError: It has no such export, or its files are not those of its manifest.
    """
    manifest = Manifest.load(against)
    manifest.verify(against)
    if to is None:
        return _checkpoint(against, manifest)
    if to not in manifest.exports:
        raise OutputError(f"{against} has no {to} export.\nExport it, or name another output with --against.")
    return against / to


def _dense_checkpoint(output: Path, manifest: Manifest) -> Path:
    return source_checkpoint(output, manifest, advice=_ADVICE)


def export_dense(
    output: Path,
    to: Format,
    manifest: Manifest,
    scratch: Path,
    progress: Progress,
    *,
    opset: Opset | None = None,
    operators: Operators | None = None,
    logits: Logits | None = None,
) -> Path:
    """Export the dense model in the same way as the pruned one.

    Args:
        output: The output directory that holds the pruned model.
        to: The format.
        manifest: The output's manifest.
        scratch: Folder for the dense export.
        progress: Shows progress.
        opset: The version of the ONNX operators; by default the pruned graph's.
        operators: The operators of an ONNX graph; by default the pruned graph's.
        logits: The tokens whose logits it computes; by default as the pruned graph.

    Returns:
        The folder of the dense export.

    Raises:
        OutputError: The output holds no pruned model in this format, or the dense checkpoint no longer exists.
    """
    if manifest.plan is None or to not in manifest.exports:
        raise OutputError(
            f"{output} holds no pruned model as {to}, so there is nothing to measure.\nName another with --against."
        )
    checkpoint = open_source_checkpoint(output, manifest, advice=_ADVICE)
    job = limits = None
    if to is Format.TENSORRT:
        facts = EngineFacts.load(output / to)
        check_runs_here(facts)
        opset = Opset(str(facts.opset))
        options = ExportOptions(
            to=to, runtime=facts.runtime, max_batch=facts.limits.max_batch, max_context=facts.limits.max_context
        )
        job = prepare_engine(options, checkpoint.config)
    elif to is Format.EXECUTORCH:
        limits = read_facts(output / to).limits
    elif to is not Format.GGUF:
        opset = opset or exported_opset(output / to)
    via = manifest.exporters.get(to, Via.AUTO)
    if operators is None:
        operators = exported_operators(output / to) if to is Format.ONNX else Operators.STANDARD
    quantization = exported_quantization(output / to)
    logits = logits or exported_logits(output / to)
    parts = None
    if to is Format.ONNX and find_parts(output / to) is not None:
        whole = source_whole(output, manifest, advice=_ADVICE)
        # the vision encoder was not pruned
        parts = PartsOf(whole, encoder=output / to) if whole is not None else None
    settings = ExportSettings(
        to,
        manifest.exports[to],
        opset,
        via,
        job,
        limits,
        operators,
        logits,
        cache_length=exported_cache_length(output / to) if to is Format.ONNX else None,
        quantization=quantization,
        parts=parts,
    )
    with checkpoint.snapshot.held():
        return export_as(scratch, checkpoint, settings, progress=progress, name="the dense model").folder
