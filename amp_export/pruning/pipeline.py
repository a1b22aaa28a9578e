"""Prune a model: score, plan, slice, rewrite, write, and check the reload."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from amp_export import checkpoints
from amp_export.architectures import Kind, Modality, parameter_count
from amp_export.checkpoints.companions import describe_left
from amp_export.checkpoints.hashing import hash_weights
from amp_export.checkpoints.loading import has_tokenizer, load_model, load_tokenizer
from amp_export.checkpoints.older_versions import add_old_names, name_tokenizer_class
from amp_export.checkpoints.reading import Checkpoint, check_finite, open_checkpoint
from amp_export.checkpoints.sources import Source, resolve_model
from amp_export.checkpoints.unsupported import check_known_fields
from amp_export.checkpoints.writing import write_checkpoint
from amp_export.errors import CalibrationError, ModelError, RequestError
from amp_export.inputs.arrays import SUFFIXES, SampleArrays, check_arrays, no_samples, read_arrays
from amp_export.inputs.batches import tokenize
from amp_export.inputs.texts import Calibration, load_calibration
from amp_export.options import Uniform
from amp_export.outputs.manifest import Manifest, PlanSummary, RewriteKind, RewriteRecord, SourceRecord
from amp_export.outputs.names import PLAN, PRUNED, SCORES
from amp_export.progress import Progress
from amp_export.pruning.dry_run import check_texts, example_rewrite, possible_candidates, rehearse
from amp_export.pruning.head_indices import renumber
from amp_export.pruning.plan import Plan
from amp_export.pruning.planning import make_plan
from amp_export.pruning.quality import DenseRun, Quality, compare, run_dense
from amp_export.pruning.reload_check import ReloadProof, expect, prove_reload
from amp_export.pruning.rewriting import MODELING_FILE, Rewrite, rewrite
from amp_export.pruning.scoring import Scores, score, score_batches
from amp_export.pruning.slicing import module_tensors, prune_module
from amp_export.verb_options import PlanSettings, PruneOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PruneResult:
    """Result of pruning.

    Attributes:
        folder: The pruned checkpoint.
        plan: The heads and neurons that each layer keeps.
        rewrite: Class and config of the pruned checkpoint.
        parameters_before: Parameters of the dense model, tied ones counted once.
        parameters_after: Parameters of the pruned model, tied ones counted once.
        quality: Quality compared with the dense model; None without held-out text, or if the model is not a decoder.
        reload: Proof that transformers loads the checkpoint.
        notes: Notes to the user.
    """

    folder: Path
    plan: Plan
    rewrite: Rewrite
    parameters_before: int
    parameters_after: int
    quality: Quality | None
    reload: ReloadProof
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PruneRequest:
    """Inputs of pruning, read and checked before the model is loaded.

    Attributes:
        source: The resolved model.
        checkpoint: The dense checkpoint.
        sha256: SHA-256 of its weights and config: see `hash_weights`.
        settings: The requested plan; None if a plan file is given.
        uniform: How to store layers of different widths.
        calibration: Text to score on and to measure quality with, or images or audio to score on. None if the model
            reads images or audio, and scores or a plan are given.
        scores: Scores of an earlier run, or None.
        plan: The given plan, or None.
    """

    source: Source
    checkpoint: Checkpoint
    sha256: str
    settings: PlanSettings | None
    uniform: Uniform
    calibration: Calibration | SampleArrays | None
    scores: Scores | None
    plan: Plan | None


def prepare(
    model: str | Path, options: PruneOptions, *, revision: str | None = None, progress: Progress
) -> PruneRequest:
    """Read and check everything that pruning needs, so that errors in a request are found before any work is done.

    Args:
        model: A hub id, a checkpoint directory, a `.gguf` file, or `demo`.
        options: Options of pruning.
        revision: A branch, a tag or a commit of a repository on the hub; by default, its main branch.
        progress: Where to show progress.

    Raises:
        RequestError: The request is invalid.
    """
    settings, plan, scores, pad = options.settings, options.plan, options.scores, options.uniform is Uniform.PAD
    if (settings is None) == (plan is None):
        raise RequestError("Give either a ratio or a plan, not both: a plan defines how much is removed.")
    if unused := [f"--{name.replace('_', '-')}" for name in options.without_effect]:
        raise RequestError(
            f"--plan defines what each layer keeps, so that {', '.join(unused)} would have no effect.\n"
            f"Leave {'it' if len(unused) == 1 else 'them'} out, or give --ratio instead of --plan."
        )
    given_samples = _read_calibration(options.calibration) if options.calibration is not None else None
    source = resolve_model(model, revision=revision, allow_pickle=options.allow_pickle, on_status=progress.note)
    checkpoint = open_checkpoint(source.path)
    check_known_fields(checkpoint.raw_config, checkpoint.config.architecture)
    given_plan = Plan.load(plan, checkpoint.config) if plan is not None else None
    rewrites = list(_rewrites(checkpoint, settings, given_plan, pad=pad))
    given_scores = Scores.load(scores, checkpoint.config) if scores is not None else None
    samples = _fit_calibration(given_samples, checkpoint, needed=given_plan is None and given_scores is None)
    rehearse(source.path, rewrites)
    if isinstance(samples, Calibration):
        check_texts(source.path, checkpoint.config, samples)
    with progress.step("Hashing weights"):
        sha256 = hash_weights(checkpoint)
    if given_scores is not None:
        given_scores.check_checkpoint(sha256)
    with progress.step("Checking weights") as advance:
        check_finite(checkpoint, on_progress=advance)
    return PruneRequest(source, checkpoint, sha256, settings, options.uniform, samples, given_scores, given_plan)


def _rewrites(
    checkpoint: Checkpoint, settings: PlanSettings | None, plan: Plan | None, *, pad: bool
) -> Iterator[Rewrite]:
    """Yield the rewrites that pruning may choose from."""
    raw, config = checkpoint.raw_config, checkpoint.config
    if plan is not None:
        yield rewrite(raw, config, plan.widths, pad=pad)
    if settings is not None:
        for candidate in possible_candidates(raw, config, settings):
            yield example_rewrite(raw, config, candidate, settings, pad=pad)


def _read_calibration(file: Path) -> Calibration | SampleArrays:
    return read_arrays(file) if file.suffix.lower() in SUFFIXES else load_calibration(file)


def _fit_calibration(
    given: Calibration | SampleArrays | None, checkpoint: Checkpoint, *, needed: bool
) -> Calibration | SampleArrays | None:
    """Return the samples to score on, after checking that the model can read them; only text has a default."""
    config = checkpoint.config
    if config.architecture.modality is Modality.TEXT:
        if isinstance(given, SampleArrays):
            raise CalibrationError(
                f"{given.file} contains arrays, but {config.class_name} takes text.\nGive a .txt file."
            )
        # without need, quality alone is measured on it
        return given or (load_calibration() if needed or has_tokenizer(checkpoint.path) else None)
    if isinstance(given, SampleArrays):
        check_arrays(given, config)
    elif given is not None or needed:
        raise no_samples(config)
    return given


def prune_into(folder: Path, request: PruneRequest, progress: Progress) -> tuple[PruneResult, Manifest]:
    """Prune into a staged folder, and return the manifest unsaved, so that later steps can add to it.

    Raises:
        ModelError: The checkpoint changed since the request was checked.
        VerificationError: The reloaded checkpoint does not compute the same as the pruned model.
    """
    with request.checkpoint.snapshot.held():
        result = _prune_into(folder, request, progress)
    return result, _manifest(request, result)


def _prune_into(folder: Path, request: PruneRequest, progress: Progress) -> PruneResult:
    checkpoint = request.checkpoint
    with progress.step("Loading the dense model") as _:
        # `prepare` rehearsed it, and the snapshot shows whether files have changed since
        model, tokenizer = load_model(checkpoint.path, rehearsed=True), _load_tokenizer(request)
    with TemporaryDirectory(dir=folder) as scratch:
        dense_run = _run_dense(request, model, tokenizer, Path(scratch), progress)
        plan = request.plan or _plan(folder, request, model, tokenizer, progress)
        pad = request.uniform is Uniform.PAD
        rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths, pad=pad)
        plan.save(folder / PLAN)
        model = prune_module(model, checkpoint.config, plan, widths=rewritten.widths)
        quality = _compare(request, model, dense_run, progress)

    expected = expect(model, checkpoint.config, tokenizer)
    with progress.step("Writing the pruned checkpoint") as _:
        save_pruned(
            folder / PRUNED,
            model,
            rewritten,
            companions=checkpoint.companions(),
            base=checkpoint.path,
            tokenizer=tokenizer,
        )
        index_notes = renumber(folder / PRUNED, checkpoint.config, plan, widths=rewritten.widths)
    del model  # the process that reloads it needs the memory
    with progress.step("Reloading it in a separate process") as _:
        proof = prove_reload(folder / PRUNED, expected, stock=rewritten.is_stock)

    read = {f"{MODELING_FILE}.py", *(info.file.name for info in checkpoint.tensors.values())}
    for note in describe_left(checkpoint.path, read):
        progress.note(note)
    notes = (*plan.notes, *_padding_note(checkpoint, plan, rewritten), *_quality_note(request), *index_notes)
    return PruneResult(
        folder=folder / PRUNED,
        plan=plan,
        rewrite=rewritten,
        parameters_before=parameter_count(checkpoint.config),
        parameters_after=parameter_count(checkpoint.config, rewritten.widths),
        quality=quality,
        reload=proof,
        notes=notes,
    )


def _load_tokenizer(request: PruneRequest) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer, which must be there only if there is text to read."""
    try:
        return load_tokenizer(request.checkpoint.path)
    except ModelError:
        if isinstance(request.calibration, Calibration):
            raise
        return None


def _held_out(request: PruneRequest, tokenizer: PreTrainedTokenizerBase | None) -> list[list[int]]:
    """Return the held-out texts to measure quality on; none for a model that does not predict the next token."""
    config = request.checkpoint.config
    if config.architecture.kind is not Kind.DECODER or not isinstance(request.calibration, Calibration):
        return []
    assert tokenizer is not None
    return tokenize(tokenizer, request.calibration.held_out, config)


def _run_dense(
    request: PruneRequest,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    scratch: Path,
    progress: Progress,
) -> DenseRun | None:
    held_out = _held_out(request, tokenizer)
    if not held_out:
        return None
    with progress.step("Measuring the dense model's perplexity") as _:
        return run_dense(model, held_out, scratch)


def _compare(
    request: PruneRequest, model: PreTrainedModel, dense: DenseRun | None, progress: Progress
) -> Quality | None:
    if dense is None:
        return None
    assert request.calibration is not None
    text = f"{len(dense.token_ids)} prompts held out from calibration: {request.calibration.origin}"
    with progress.step("Comparing the pruned model with the dense one") as _:
        return compare(model, dense, text=text)


def _plan(
    folder: Path,
    request: PruneRequest,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress,
) -> Plan:
    checkpoint = request.checkpoint
    scores = request.scores
    if scores is None:
        scores = replace(_score(request, model, tokenizer, progress), checkpoint=request.sha256)
    scores.save(folder / SCORES)
    assert request.settings is not None
    return make_plan(checkpoint.raw_config, checkpoint.config, scores, request.settings)


def _score(
    request: PruneRequest, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, progress: Progress
) -> Scores:
    config, given = request.checkpoint.config, request.calibration
    assert given is not None
    with progress.step("Scoring heads and neurons") as advance:
        if isinstance(given, SampleArrays):
            batches = given.batches(model, config)
            return score_batches(model, batches, given.samples, config, origin=given.origin, on_progress=advance)
        assert tokenizer is not None
        return score(model, tokenizer, given.prompts, config, origin=given.origin, on_progress=advance)


def _origin(request: PruneRequest) -> str | None:
    """Return the data that the scores were measured on; None for a given plan, which needs no scores."""
    if request.scores is not None:
        return request.scores.origin
    if request.plan is not None or request.calibration is None:
        return None
    return request.calibration.origin


def _quality_note(request: PruneRequest) -> Iterator[str]:
    architecture = request.checkpoint.config.architecture
    if request.calibration is None and architecture.kind is Kind.DECODER:
        yield "The checkpoint holds no tokenizer, so that quality is not measured."


def _padding_note(checkpoint: Checkpoint, plan: Plan, rewritten: Rewrite) -> Iterator[str]:
    left = parameter_count(checkpoint.config, rewritten.widths)
    if padding := left - parameter_count(checkpoint.config, plan.widths):
        yield (
            f"{padding:,} parameters are padding, {padding / left:.1%} of what is left: every layer "
            "takes the time of the widest, and that is what is measured."
        )


def save_pruned(
    folder: Path,
    model: PreTrainedModel,
    rewritten: Rewrite,
    *,
    companions: Iterable[Path] = (),
    base: Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a pruned model as the checkpoint that its rewrite describes.

    Args:
        folder: Folder to create.
        model: The pruned model.
        rewritten: Config to write, and the class that reads it.
        companions: Files to copy next to the weights.
        base: Directory of those companions that keep their folders.
        tokenizer: The dense model's tokenizer.
    """
    tensors = module_tensors(model, as_stored=rewritten.is_stock)
    if not rewritten.is_stock:
        companions = (*companions, Path(checkpoints.__file__).with_name(f"{MODELING_FILE}.py"))
    write_checkpoint(folder, rewritten.config, tensors, companions=companions, base=base)
    if tokenizer is not None and rewritten.kind in (RewriteKind.SIBLING_CLASS, RewriteKind.RESIZED_CLASS):
        # transformers would otherwise choose the class by the `model_type`
        name_tokenizer_class(folder, type(tokenizer).__name__)
    else:
        name_tokenizer_class(folder)


def _manifest(request: PruneRequest, result: PruneResult) -> Manifest:
    checkpoint, plan, source = request.checkpoint, result.plan, request.source
    summary = PlanSummary(
        asked=plan.asked,
        achieved=plan.achieved,
        parameters_before=result.parameters_before,
        parameters_after=result.parameters_after,
        widths_before=checkpoint.config.widths,
        widths=plan.widths,
        settings=plan.settings,
        reasons=plan.reasons,
        notes=result.notes,
        calibration=_origin(request),
    )
    return Manifest(
        source=SourceRecord(
            source.asked, str(checkpoint.path.resolve()), request.sha256, revision=source.revision, commit=source.commit
        ),
        config_before=dict(checkpoint.raw_config),
        config_after=add_old_names(result.rewrite.config),
        rewrite=RewriteRecord(result.rewrite.kind, result.rewrite.class_name, result.rewrite.reason),
        plan=summary,
        verdicts={
            "reload": asdict(result.reload),
            "quality": None if result.quality is None else asdict(result.quality),
        },
    )
