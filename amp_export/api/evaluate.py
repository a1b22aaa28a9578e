"""Evaluate a model, or what an output directory holds, on tasks, text and prompts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.api.subjects import (
    Subject,
    open_if_output,
    read_ending_tokens,
    resolve_subject,
    split_export,
    subject_in,
    subject_of,
)
from amp_export.checkpoints.hashing import hash_file, hash_weights
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.errors import OutputError, RequestError, TaskError, first_line
from amp_export.evaluation.decoders import Evaluated, ExportedDecoder, TorchDecoder
from amp_export.evaluation.encoding import Encoder
from amp_export.evaluation.finished import Finished
from amp_export.evaluation.harness_tasks import is_of_harness, read_harness_tasks
from amp_export.evaluation.measuring import Evaluation, Measured, Work, compare, measure
from amp_export.evaluation.perplexity import choose_window, read_text_file
from amp_export.evaluation.summaries import summarize
from amp_export.evaluation.tasks import read_tasks
from amp_export.inputs.texts import read_prompts
from amp_export.options import Format
from amp_export.outputs.lookup import open_source_checkpoint
from amp_export.outputs.manifest import Judged, Manifest, package_versions
from amp_export.outputs.names import PRUNED
from amp_export.outputs.resumable import has_unfinished, resumable_beside
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import update_report
from amp_export.verb_options import EvaluateOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SMALL = {".json", ".txt", ".model", ".jinja"}
"""Endings of the files of configs and tokenizers."""

_DENSE = "Name the dense model with --against MODEL to compare with it."


@dataclass(frozen=True)
class Found:
    """What is to be evaluated.

    Attributes:
        subjects: The model, and the one to compare it with if there is one.
        notes: Notes to the user.
        judged: The part of the output that the result is stored for, or None if it is not about an output.
    """

    subjects: tuple[Subject, ...]
    notes: tuple[str, ...] = ()
    judged: Judged | None = None


def evaluate(
    model: str | Path,
    options: EvaluateOptions,
    *,
    revision: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure accuracy on tasks, perplexity of a text and repetition in generated texts.

    Checkpoints are run in PyTorch in float32, exports in their runtime. What an output directory holds is compared with
    its dense model, if that still exists, and the numbers are written into its report.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, `demo`, an output directory, or an export in one, such
            as `out/onnx`.
        options: What to measure, and what to compare with.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        resume: Do not repeat what an earlier run on this output directory finished before it was stopped.
        progress: Where to show progress.

    Raises:
        OutputError: Another evaluation of this part of the output runs.
        TaskError: A task cannot be read, or does not suit the model; of a file, the message names the line.
        MissingExtraError: A task is one of the LM Evaluation Harness, which is not installed.
        UnsupportedModelError: A model is not a decoder.
        RequestError: There is nothing to measure, or a window that a model does not take.
        AmpExportError: See `amp_export.errors`.
    """
    progress = progress or Silent()
    _check(options)
    _refuse_file(model)
    model, to = split_export(model, options.to)
    options = replace(options, to=to)
    work, files, notes = _read(options, progress)
    found = _find(model, options, revision, progress)
    notes = (*found.notes, *notes)
    window, stride = _choose_window(found.subjects, options)
    work = replace(work, window=window, stride=stride)
    with _kept(Path(model), found.judged, progress, resume=resume) as folder:
        # one after the other, so that memory holds one; exports come first, since they may take less than dense models
        measured, *others = [_measure(subject, work, folder, progress) for subject in found.subjects]
    against = others[0] if others else None
    differences = compare(measured, against) if against is not None else None
    if differences is not None and work.text is not None and differences.perplexity is None:
        notes = (*notes, "The models tokenize the text differently, so that perplexities per token do not compare.")
    packages = {**package_versions(), **({"lm-eval": version("lm-eval")} if work.harness else {})}
    evaluation = Evaluation(measured, against, differences, options.limit, notes, packages)
    return (
        evaluation if found.judged is None else _store(Path(model), evaluation, found.judged, files, options, progress)
    )


def _check(options: EvaluateOptions) -> None:
    """Raise RequestError for options that say nothing together."""
    if not options.tasks and options.perplexity is None and options.prompts is None:
        raise RequestError(
            "There is nothing to evaluate on.\nGive questions with --tasks, text with --perplexity or prompts with "
            "--generate."
        )
    if options.perplexity is None and (options.window, options.stride) != (None, None):
        raise RequestError("--window and --stride are for --perplexity.\nAdd it, or leave them out.")
    local = next((each for each in options.tasks if not is_of_harness(each)), None)
    if options.few_shot is not None and (local is not None or not options.tasks):
        found = "--tasks names none" if local is None else f"{local} is a file, whose contexts are taken as they are"
        raise RequestError(
            f"--few-shot is for tasks of the LM Evaluation Harness; {found}.\nLeave it out, or name such tasks alone."
        )


def _read(options: EvaluateOptions, progress: Progress) -> tuple[Work, dict[str, str], tuple[str, ...]]:
    """Return what to measure, the hashes of all that was read for it by their names, and notes."""
    local = [Path(each) for each in options.tasks if not is_of_harness(each)]
    named = [each for each in options.tasks if is_of_harness(each)]
    tasks = read_tasks(local, limit=options.limit)
    text = read_text_file(options.perplexity) if options.perplexity is not None else None
    prompts = read_prompts(options.prompts) if options.prompts is not None else ()
    files = {str(file): hash_file(file) for file in (*local, options.perplexity, options.prompts) if file is not None}
    if not named:
        return Work(tasks, text, prompts, limit=options.limit, new_tokens=options.new_tokens), files, ()
    with progress.step("Reading tasks of the LM Evaluation Harness"):
        harness = read_harness_tasks(named, few_shot=options.few_shot, limit=options.limit)
    names = {task.name for task in harness}
    if taken := next((task.name for task in tasks if task.name in names), None):
        raise RequestError(
            f"--tasks names two tasks {taken}: a file and one of the LM Evaluation Harness.\nRename the file."
        )
    notes = tuple(
        f"{task.name} has {task.few_shot} examples before each question, not {options.few_shot}: it takes no others."
        for task in harness
        if options.few_shot not in {None, task.few_shot}
    )
    files |= {task.name: task.asked_sha256 for task in harness}
    work = Work(tasks, text, prompts, limit=options.limit, new_tokens=options.new_tokens, harness=harness)
    return work, files, notes


@contextlib.contextmanager
def _kept(model: Path, judged: Judged | None, progress: Progress, *, resume: bool) -> Iterator[Path | None]:
    """Yield a folder for finished measurements, which stays if the run is stopped; None if nothing is stored.

    Raises:
        RequestError: `resume` is asked for, and nothing is kept.
    """
    if judged is None:
        if resume:
            raise RequestError(
                f"--resume goes on with an evaluation that is stored in its output, and this one of {model} is not.\n"
                "Leave it out."
            )
        yield None
        return
    output, of = model.expanduser(), f"evaluate-{judged.part}"
    if resume and not has_unfinished(output, of=of):
        progress.note(f"There is no unfinished evaluation of {output}, so that it begins at the start.")
    done = False
    try:
        with resumable_beside(output, resume=resume, of=of) as folder:
            yield folder
            done = True
    finally:
        if not done and has_unfinished(output, of=of):
            progress.note("The same command with --resume does not repeat what was finished.")


def _identify(subject: Subject) -> dict[str, str]:
    """Return the hashes of all that a subject's numbers depend on, and the versions that compute them."""
    # weights have a hash of their own: beside them may be the same in another format, which is not read
    settings = {file.name: file for file in subject.checkpoint.path.iterdir() if file.suffix in _SMALL}
    export = subject.export
    graphs = {} if export is None else {str(file.relative_to(export.parent)): file for file in export.rglob("*")}
    hashes = {name: hash_file(file) for name, file in sorted({**settings, **graphs}.items()) if file.is_file()}
    return {"weights": hash_weights(subject.checkpoint), **hashes, **package_versions()}


def _store(
    output: Path,
    evaluation: Evaluation,
    judged: Judged,
    files: dict[str, str],
    options: EvaluateOptions,
    progress: Progress,
) -> Evaluation:
    """Write the numbers into the report; what took long to measure is returned even if that fails, with a note."""
    new_tokens = None if options.prompts is None else options.new_tokens
    summary = summarize(evaluation, judged, files=files, new_tokens=new_tokens)
    try:
        update_report(output.expanduser(), evaluations={judged.part: summary}, progress=progress)
    except OutputError as error:
        note = f"The result is not stored in {output}: {first_line(error)}"
        return replace(evaluation, notes=(*evaluation.notes, note))
    progress.note(f"Stored in the report of {output}.")
    return evaluation


def _refuse_file(model: str | Path) -> None:
    if Path(model).suffix.lower() in (".jsonl", ".txt", ".yaml") and Path(model).is_file():
        raise TaskError(
            f"{model} is a file to evaluate on, no model.\nName the model first: amp-export evaluate MODEL --tasks FILE"
        )


def _find(model: str | Path, options: EvaluateOptions, revision: str | None, progress: Progress) -> Found:
    """Return the model, and the one to compare it with if there is one."""
    output, manifest = open_if_output(model, options.to, does="evaluates")
    if manifest is None:
        subject = resolve_subject(model, revision=revision, allow_pickle=options.allow_pickle, progress=progress)
    else:
        subject = subject_in(output, manifest, options.to)
    judged = None if manifest is None else _what_is_judged(output, manifest, options.to)
    if options.against is not None:
        against = resolve_subject(options.against, allow_pickle=options.allow_pickle, progress=progress)
        if manifest is None or judged is None or hash_weights(against.checkpoint) == manifest.source.sha256:
            return Found((subject, against), judged=judged)
        note = f"The result is not stored in {output}: {against.name} is not the dense model that it was made from."
        return Found((subject, against), (note,))
    if manifest is None or judged is None:
        return Found((subject,))
    try:
        dense = open_source_checkpoint(output, manifest, advice=_DENSE)
    except OutputError as error:
        return Found((subject,), (f"Nothing is compared: {first_line(error)} {_DENSE}",), judged)
    return Found((subject, subject_of(manifest.source.name, dense)), judged=judged)


def _what_is_judged(output: Path, manifest: Manifest, to: Format | None) -> Judged | None:
    """Return the part of an output that is evaluated; None if that is the dense model, of which it holds nothing."""
    if to is not None:
        return manifest.judged(to)
    return manifest.judged(PRUNED) if (output / PRUNED).is_dir() else None


def _choose_window(subjects: Sequence[Subject], options: EvaluateOptions) -> tuple[int, int]:
    limits = [each.checkpoint.config.longest_text for each in subjects]
    return choose_window(
        options.window, options.stride, min((each for each in limits if each is not None), default=None)
    )


def _measure(subject: Subject, work: Work, folder: Path | None, progress: Progress) -> Measured:
    checkpoint = subject.checkpoint
    finished = None if folder is None else Finished(folder, _identify(subject))
    with checkpoint.snapshot.held(), contextlib.ExitStack() as stack:
        tokenizer = load_tokenizer(checkpoint.path)
        with progress.step(f"Loading {subject.name}"):
            model, max_context = _load(subject, stack)
        encoder = Encoder(tokenizer, checkpoint.config, max_context=max_context)
        if work.text is not None:
            choose_window(work.window, work.stride, encoder.longest_text)
        return measure(subject.name, model, encoder, work, progress, finished)


def _load(subject: Subject, stack: contextlib.ExitStack) -> tuple[Evaluated, int | None]:
    """Return a loaded model, and the largest number of tokens that its export takes."""
    import torch

    checkpoint = subject.checkpoint
    if subject.export is None:
        return TorchDecoder(load_model(checkpoint.path, dtype=torch.float32)), None
    from amp_export.exporters.dispatch import run
    from amp_export.exporters.models.decoder import Decoder

    decoder = run(subject.export)
    assert isinstance(decoder, Decoder), f"{subject.export} is the export of a decoder"
    stack.callback(decoder.close)
    return ExportedDecoder(decoder, read_ending_tokens(checkpoint.path)), decoder.max_context
