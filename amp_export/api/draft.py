"""Put the dense and the pruned model of an output directory together, for speculative decoding."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.benchmarking.drafting.measuring import measure_draft
from amp_export.benchmarking.drafting.results import MEASUREMENT, DraftMeasurement
from amp_export.benchmarking.runners.genai import require as require_genai
from amp_export.checkpoints.loading import load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.documents import to_json
from amp_export.errors import OutputError, command_line
from amp_export.exporters.gguf import require_runtime as require_llama_cpp
from amp_export.exporting.drafting import prepare_pair, write_pair
from amp_export.inputs.batches import encode
from amp_export.inputs.texts import load_calibration
from amp_export.options import Format
from amp_export.outputs.lookup import open_source_checkpoint
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import DRAFT, PRUNED
from amp_export.outputs.scratch import scratch_beside
from amp_export.outputs.staging import extended_output
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_output
from amp_export.verb_options import DraftOptions

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint

_LONGEST_PROMPT = 64


@dataclass(frozen=True)
class Drafted:
    """The dense and the pruned model in one folder.

    Attributes:
        folder: The folder.
        bytes_on_disk: Its size.
        measurement: Texts, acceptance and speed against the dense model alone; None if they were not measured.
    """

    folder: Path
    bytes_on_disk: int
    measurement: DraftMeasurement | None


def draft(
    output: Path,
    options: DraftOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Drafted:
    """Write `draft` into an output directory: its dense model, and its pruned one that drafts tokens for it.

    The dense model checks every drafted token, so that a text is the one that it generates alone.

    Args:
        output: The output directory of `prune` or `convert`.
        options: The options.
        overwrite: Replace an earlier `draft`.
        progress: Where to show progress.

    Raises:
        OutputError: `output` holds no pruned checkpoint, its dense model is missing, or `draft` exists already.
        MissingExtraError: The runtime that measures, onnxruntime-genai or llama.cpp, is not installed.
        AmpExportError: See `exporting.drafting.prepare_pair`.
    """
    options, progress = options or DraftOptions(), progress or Silent()
    manifest = open_output(output)
    pruned = _open_pruned(output, manifest)
    dense = open_source_checkpoint(output, manifest, advice="It checks what is drafted; or prune again.")
    if (output / DRAFT).exists() and not overwrite:
        raise OutputError(f"{output / DRAFT} exists already.\nGive --overwrite to replace it.")
    if options.measure:
        (require_llama_cpp if options.to is Format.GGUF else require_genai)()
    pair = prepare_pair(dense, pruned, options)
    with scratch_beside(output) as scratch:
        with dense.snapshot.held(), pruned.snapshot.held():
            size = write_pair(scratch / DRAFT, pair, options, progress=progress)
        measurement = _measure(scratch / DRAFT, dense, options, progress) if options.measure else None
        if measurement is not None:
            (scratch / DRAFT / MEASUREMENT).write_text(to_json(measurement), encoding="utf-8")
        with extended_output(output) as folder:
            now = Manifest.load(folder)
            if now.fingerprint(PRUNED) != manifest.fingerprint(PRUNED):
                raise OutputError(f"{output} was pruned again while this command ran.\nRun the command again.")
            shutil.rmtree(folder / DRAFT, ignore_errors=True)
            (scratch / DRAFT).rename(folder / DRAFT)
            now.with_hashes(folder, [DRAFT]).write(folder)
    return Drafted(output / DRAFT, size, measurement)


def _open_pruned(output: Path, manifest: Manifest) -> Checkpoint:
    if manifest.plan is None or not (output / PRUNED).is_dir():
        command = command_line(
            "amp-export", "prune", *manifest.source.words, "--ratio", "R", "--output", output, "--overwrite"
        )
        raise OutputError(f"{output} holds no pruned checkpoint to draft with.\nPrune first: {command}")
    return open_checkpoint(output / PRUNED)


def _measure(folder: Path, dense: Checkpoint, options: DraftOptions, progress: Progress) -> DraftMeasurement:
    prompts = read_beginnings(dense.path, options.texts)
    with progress.step("Generating with the dense model alone, and with drafts") as advance:
        return measure_draft(
            folder,
            prompts,
            new_tokens=options.new_tokens,
            draft_tokens=options.draft_tokens,
            threads=options.threads,
            on_progress=advance,
        )


def read_beginnings(path: Path, texts: int) -> list[list[int]]:
    """Return the token ids of the beginnings of held-out texts: half of each, up to 64 tokens.

    Args:
        path: A checkpoint, for its tokenizer.
        texts: Number of texts.
    """
    tokenizer = load_tokenizer(path)
    encoded = [encode(tokenizer, text) for text in load_calibration(prompts=4 * texts).held_out[:texts]]
    return [ids[: min(max(len(ids) // 2, 1), _LONGEST_PROMPT)] for ids in encoded]
