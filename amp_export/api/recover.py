"""Train the pruned checkpoint of an output directory, in place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.documents import to_builtins
from amp_export.errors import OutputError, command_line
from amp_export.options import Format
from amp_export.outputs.lookup import open_source_checkpoint
from amp_export.outputs.manifest import Manifest, Step
from amp_export.outputs.names import BUNDLE, DRAFT, NEMOTRON_NAS, PRUNED, WHOLE
from amp_export.outputs.resumable import has_unfinished, resumable_beside
from amp_export.outputs.scratch import scratch_beside
from amp_export.outputs.staging import extended_output
from amp_export.progress import Progress, Silent
from amp_export.pruning.nemotron_nas import renew
from amp_export.pruning.whole import write_whole
from amp_export.recovery.pipeline import Recovered, recover_into
from amp_export.recovery.request import check_options, check_recoverable, check_resumed, prepare
from amp_export.reporting.files import open_output, save_report
from amp_export.reporting.report import Report, record_verdicts
from amp_export.verb_options import RecoverOptions


def recover(
    output: Path, options: RecoverOptions | None = None, *, resume: bool = False, progress: Progress | None = None
) -> Recovered:
    """Train the pruned checkpoint of an output directory: towards its dense model, or on instructions.

    If that makes the model better, the new checkpoint replaces `pruned/`. Exports, bundles and verdicts that are about
    the earlier weights are removed with it. If not, the output stays as it is.

    Args:
        output: The output directory of `prune` or `convert`.
        options: Options of recovery.
        resume: Go on from where an earlier run with the same options was stopped; from the beginning if there is none.
        progress: Where to show progress.

    Raises:
        OutputError: `output` holds no pruned checkpoint, its dense model is missing, or it changed meanwhile.
        AmpExportError: See `amp_export.errors`.
    """
    options, progress = options or RecoverOptions(), progress or Silent()
    check_options(options)
    manifest = open_output(output)
    pruned = _open_pruned(output, manifest)
    check_recoverable(pruned, options.method)
    dense = open_source_checkpoint(
        output,
        manifest,
        advice="Recovery needs its predictions, to train on or to compare with; or prune again with --overwrite.",
    )
    about = {"source": manifest.source.sha256, "pruned": manifest.fingerprint(PRUNED)}
    request = prepare(dense, pruned, options, about=about)
    _tell_unfinished(output, progress, resume=resume)
    with resumable_beside(output, resume=resume) as state:
        check_resumed(request, state)
        with _told_how_to_resume(progress), scratch_beside(output) as scratch:
            recovered = recover_into(scratch, request, state, progress)
            if recovered.recovery.improved:
                if (output / WHOLE).is_dir():
                    with progress.step("Putting it back into the vision-language model") as _:
                        write_whole(scratch / WHOLE, output / WHOLE, scratch / PRUNED)
                if (output / NEMOTRON_NAS).is_dir():
                    renew(scratch / NEMOTRON_NAS, output / NEMOTRON_NAS, scratch / PRUNED)
                _replace_pruned(output, scratch, manifest, recovered, progress)
    return recovered


@contextmanager
def _told_how_to_resume(progress: Progress) -> Iterator[None]:
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            progress.note("The same command with --resume goes on from where training was last saved.")


def _open_pruned(output: Path, manifest: Manifest) -> Checkpoint:
    if manifest.plan is None or not (output / PRUNED).is_dir():
        command = command_line(
            "amp-export", "prune", *manifest.source.words, "--ratio", "R", "--output", output, "--overwrite"
        )
        raise OutputError(f"{output} holds no pruned checkpoint to recover.\nPrune first: {command}")
    return open_checkpoint(output / PRUNED)


def _tell_unfinished(output: Path, progress: Progress, *, resume: bool) -> None:
    unfinished = has_unfinished(output)
    if resume and not unfinished:
        progress.note(f"There is no unfinished run on {output}, so that training begins at the start.")
    if unfinished and not resume:
        progress.note(f"An unfinished run on {output} is discarded; with --resume it would go on.")


def _replace_pruned(output: Path, made: Path, manifest: Manifest, recovered: Recovered, progress: Progress) -> None:
    """Put the new checkpoints in place of the pruned ones, and drop all that is about the earlier weights.

    Raises:
        OutputError: The pruned checkpoint has been replaced meanwhile.
    """
    with extended_output(output) as folder:
        now = Manifest.load(folder)
        if now.fingerprint(PRUNED) != manifest.fingerprint(PRUNED):
            raise OutputError(
                f"{output} was written to while this command ran: its pruned checkpoint is not the one that was "
                "trained.\nThe result is not kept. Run the command again."
            )
        for name in (PRUNED, WHOLE, NEMOTRON_NAS, DRAFT, *Format):
            shutil.rmtree(folder / name, ignore_errors=True)
        for bundle in folder.glob(BUNDLE.format(target="*")):
            bundle.unlink()
        for name in (PRUNED, WHOLE, NEMOTRON_NAS):
            if (made / name).is_dir():
                (made / name).rename(folder / name)
        now = _record(now, recovered).with_hashes(folder)
        report = Report.of(now)
        save_report(folder, report, record_verdicts(now, report), progress=progress)


def _record(manifest: Manifest, recovered: Recovered) -> Manifest:
    """Return the manifest of the new weights; an end-to-end run has all steps after pruning before it again."""
    recoveries = [*manifest.verdicts.get("recoveries", ()), recovered.recovery]
    manifest = replace(
        manifest, exports={}, exporters={}, unfinished=tuple(Step) if manifest.request is not None else ()
    )
    found = {"reload": recovered.reload, "quality": recovered.quality, "recoveries": recoveries}
    for name, verdict in found.items():
        manifest = manifest.with_verdict(name, to_builtins(verdict))
    return manifest
