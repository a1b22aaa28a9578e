"""Prune a model: score, plan, slice, rewrite, write, and check the reload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from amp_export.architectures import Kind, ModelConfig, parameter_count
from amp_export.checkpoints.companions import describe_left
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.older_versions import add_old_names
from amp_export.checkpoints.reading import Checkpoint
from amp_export.errors import ModelError
from amp_export.hardware.placement import CPU, choose_device, model_bytes, move
from amp_export.inputs.arrays import SampleArrays
from amp_export.inputs.batches import Batch, text_batches
from amp_export.inputs.calibration_tokens import CalibrationSamples, CalibrationTokens
from amp_export.inputs.texts import Calibration
from amp_export.inputs.windows import WINDOW_TOKENS
from amp_export.options import Allocation, Uniform
from amp_export.outputs.lookup import record_source
from amp_export.outputs.manifest import FileRecord, Manifest, PlanSummary, RewriteRecord, record_files
from amp_export.outputs.names import NEMOTRON_NAS, PLAN, PRUNED, SCORES, WHOLE
from amp_export.progress import Progress
from amp_export.pruning import nemotron_nas
from amp_export.pruning.compensation.least_squares import ROWS_PER_COLUMN
from amp_export.pruning.compensation.results import Compensation
from amp_export.pruning.compensation.samples import can_compensate, fitting_batches
from amp_export.pruning.compensation.updating import prune_and_compensate
from amp_export.pruning.criteria import find_criterion
from amp_export.pruning.head_indices import renumber
from amp_export.pruning.held_out import DenseRuns, compare_on, run_dense_on
from amp_export.pruning.plan import Plan
from amp_export.pruning.planning import list_plans
from amp_export.pruning.quality import Quality
from amp_export.pruning.reload_check import ReloadProof, expect, prove_reload
from amp_export.pruning.request import PruneRequest
from amp_export.pruning.rewriting import MODELING_FILE, Rewrite, rewrite
from amp_export.pruning.saving import save_pruned
from amp_export.pruning.scores import Scores, Sensitivity
from amp_export.pruning.scoring import SCORING_SHARE, SCORING_TOKENS, score_batches
from amp_export.pruning.sensitivity import SENSITIVITY_SHARE, SENSITIVITY_TOKENS, measure_sensitivity
from amp_export.pruning.slicing import prune_module
from amp_export.pruning.spilling import SPILLED_BYTES, Spill
from amp_export.pruning.trials import TRIAL_SHARE, TRIAL_TOKENS, try_plans
from amp_export.pruning.whole import note_left_out, write_whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROOM = 3
"""Times the weights' size that must be free on a GPU: hidden states and moments take about as much again."""

FEWEST_MEASURED, SHORTEST_MEASURED = 8, 128
"""Divergences are measured on so many windows, if these have so many tokens: short ones let few tokens be of many
texts, but show less of what heads are good for that look far back."""


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
        compensation: How what is kept was updated; None if it was not.
        notes: Notes to the user.
        scored_on: Data that importance was measured on; None if the plan was given.
    """

    folder: Path
    plan: Plan
    rewrite: Rewrite
    parameters_before: int
    parameters_after: int
    quality: Quality | None
    reload: ReloadProof
    compensation: Compensation | None = None
    notes: tuple[str, ...] = ()
    scored_on: str | None = None


def prune_into(folder: Path, request: PruneRequest, progress: Progress) -> tuple[PruneResult, Manifest]:
    """Prune into a staged folder, and return the manifest unsaved, so that later steps can add to it.

    Of all files, it has only the hashes of the pruned checkpoint's.

    Raises:
        ModelError: The checkpoint changed since the request was checked.
        VerificationError: The reloaded checkpoint does not compute the same as the pruned model.
    """
    with request.checkpoint.snapshot.held():
        result, files = _prune_into(folder, request, progress)
    if request.source.whole is not None:
        with progress.step("Putting it back into the vision-language model") as _:
            write_whole(folder / WHOLE, request.source.whole, folder / PRUNED)
        progress.note(f"The vision-language model with the pruned language model in it is in OUT/{WHOLE}.")
        for note in note_left_out(request.source.whole):
            progress.note(note)
    if request.uniform is Uniform.NEMOTRON_NAS:
        raw_config = request.checkpoint.raw_config
        nemotron_nas.write(folder / NEMOTRON_NAS, folder / PRUNED, raw_config, result.rewrite.widths)
    return result, replace(_manifest(request, result), files=files)


def _prune_into(
    folder: Path, request: PruneRequest, progress: Progress
) -> tuple[PruneResult, Mapping[str, FileRecord]]:
    checkpoint = request.checkpoint
    with progress.step("Loading the dense model") as _:
        # `prepare` rehearsed it, and the snapshot shows whether files have changed since
        model, tokenizer = load_model(checkpoint.path, rehearsed=True), _load_tokenizer(request)
        move(model, choose_device(needed_bytes=ROOM * model_bytes(model)))
    with TemporaryDirectory(dir=folder) as scratch:
        samples = _calibration_samples(request, tokenizer)
        dense_run = _run_dense(request, model, samples, Path(scratch), progress)
        plan, scored_on = _plan(folder, request, model, samples, progress)
        pad = request.uniform is Uniform.PAD
        rewritten = rewrite(checkpoint.raw_config, checkpoint.config, plan.widths, pad=pad)
        plan.save(folder / PLAN)
        spills = model.device.type == CPU and model_bytes(model) >= SPILLED_BYTES
        spill = Spill(Path(scratch), checkpoint.config) if spills else None
        compensation = _prune(request, model, samples, plan, rewritten, progress, on_layer=spill)
        quality = _compare(model, dense_run, progress)

        # what a file holds is loaded, and compared bit for bit, on a CPU
        move(model, CPU)
        expected = expect(model, checkpoint.config, tokenizer)
        with progress.step("Writing the pruned checkpoint") as _:
            save_pruned(
                folder / PRUNED,
                model,
                rewritten,
                companions=checkpoint.companions(),
                base=checkpoint.path,
                tokenizer=tokenizer,
                spill=spill,
            )
            index_notes = renumber(folder / PRUNED, checkpoint.config, plan, widths=rewritten.widths)
        del model, spill  # the process that reloads it needs the memory
    with progress.step("Reloading it in a separate process") as _, ThreadPoolExecutor(1) as pool:
        # the other process reads the same files, and takes hardly more than one core
        files = pool.submit(record_files, folder, [PRUNED])
        proof = prove_reload(folder / PRUNED, expected, stock=rewritten.is_stock)

    read = {f"{MODELING_FILE}.py", *(file.name for file in checkpoint.weight_files)}
    for note in describe_left(checkpoint.path, read):
        progress.note(note)
    notes = (
        *plan.notes,
        *_padding_note(checkpoint, plan, rewritten),
        *_quality_note(request),
        *_compensation_notes(request, compensation),
        *index_notes,
    )
    result = PruneResult(
        folder=folder / PRUNED,
        plan=plan,
        rewrite=rewritten,
        parameters_before=parameter_count(checkpoint.config),
        parameters_after=parameter_count(checkpoint.config, rewritten.widths),
        quality=quality,
        reload=proof,
        compensation=compensation,
        notes=notes,
        scored_on=scored_on,
    )
    return result, files.result()


def _prune(
    request: PruneRequest,
    model: PreTrainedModel,
    samples: CalibrationSamples | None,
    plan: Plan,
    rewritten: Rewrite,
    progress: Progress,
    *,
    on_layer: Callable[[int, torch.nn.Module], None] | None,
) -> Compensation | None:
    """Resize the layers of the model, and update what is kept if that is asked for and possible."""
    config = request.checkpoint.config
    if not request.compensate or samples is None or not can_compensate(config):
        prune_module(model, config, plan, widths=rewritten.widths, on_layer=on_layer)
        return None
    batches = fitting_batches(model, config, samples, tokens=request.fitting_tokens)
    with progress.step("Compensating for what is removed") as advance:
        return prune_and_compensate(
            model,
            config,
            plan,
            batches,
            widths=rewritten.widths,
            origin=samples.source,
            on_layer=on_layer,
            on_progress=advance,
        )


def _compensation_notes(request: PruneRequest, compensation: Compensation | None) -> Iterator[str]:
    if not request.compensate:
        return
    if compensation is None:
        reason = (
            "without calibration samples" if request.calibration is None else "of layers that share more than states"
        )
        yield f"What is kept is not updated: that is not possible {reason}."
    elif advice := compensation.advice:
        yield advice


def _load_tokenizer(request: PruneRequest) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer, which must be there only if there is text to read."""
    try:
        return load_tokenizer(request.checkpoint.path)
    except ModelError:
        if isinstance(request.calibration, Calibration):
            raise
        return None


def _calibration_samples(request: PruneRequest, tokenizer: PreTrainedTokenizerBase | None) -> CalibrationSamples | None:
    """Return the samples that all steps share, text as the model's tokens."""
    samples = request.calibration
    if not isinstance(samples, Calibration):
        return samples
    assert tokenizer is not None
    return CalibrationTokens(samples, tokenizer, request.checkpoint.config)


def _run_dense(
    request: PruneRequest,
    model: PreTrainedModel,
    samples: CalibrationSamples | None,
    scratch: Path,
    progress: Progress,
) -> DenseRuns | None:
    """Run the dense model on what quality is measured on; a model that does not predict the next token has none."""
    is_decoder = request.checkpoint.config.architecture.kind is Kind.DECODER
    if not is_decoder or not isinstance(samples, CalibrationTokens) or not samples.calibration.held_out:
        return None
    with progress.step("Measuring the dense model's perplexity") as _:
        return run_dense_on(model, samples, scratch)


def _compare(model: PreTrainedModel, dense: DenseRuns | None, progress: Progress) -> Quality | None:
    if dense is None:
        return None
    with progress.step("Comparing the pruned model with the dense one") as _:
        return compare_on(model, dense)


def _plan(
    folder: Path,
    request: PruneRequest,
    model: PreTrainedModel,
    samples: CalibrationSamples | None,
    progress: Progress,
) -> tuple[Plan, str | None]:
    """Return the plan, and what its scores were measured on; a given plan needs none."""
    if request.plan is not None:
        return request.plan, None
    checkpoint = request.checkpoint
    scores = request.scores
    if scores is None:
        scores = replace(_score(request, model, samples, progress), checkpoint=request.sha256)
    assert request.settings is not None
    if request.settings.allocation is Allocation.KL and scores.sensitivity is None:
        scores = replace(scores, sensitivity=_measure_sensitivity(request, model, samples, scores, progress))
    scores.save(folder / SCORES)
    plans = list_plans(checkpoint.raw_config, checkpoint.config, scores, request.settings)
    return _choose(request, model, samples, plans, progress), scores.origin


def _choose(
    request: PruneRequest,
    model: PreTrainedModel,
    samples: CalibrationSamples | None,
    plans: Sequence[Plan],
    progress: Progress,
) -> Plan:
    """Return the plan that changes predictions least, if there is text to try them on; otherwise the first."""
    config = request.checkpoint.config
    if len(plans) == 1 or samples is None:
        return plans[0]
    batches = _measuring_batches(request, model, samples, most=TRIAL_TOKENS, share=TRIAL_SHARE)
    with progress.step("Trying plans out") as advance:
        divergences = try_plans(model, config, plans, batches, on_progress=advance)
    best = min(range(len(plans)), key=divergences.__getitem__)
    said = f"of {len(plans)} plans, this one diverges least: {divergences[best]:.3f} nats before compensation"
    return replace(plans[best], reasons={**plans[best].reasons, "trial": said})


def _measure_sensitivity(
    request: PruneRequest,
    model: PreTrainedModel,
    samples: CalibrationSamples | None,
    scores: Scores,
    progress: Progress,
) -> Sensitivity:
    config = request.checkpoint.config
    assert samples is not None
    batches = _measuring_batches(request, model, samples, most=SENSITIVITY_TOKENS, share=SENSITIVITY_SHARE)
    with progress.step("Measuring what each layer costs") as advance:
        return measure_sensitivity(model, config, scores, batches, on_progress=advance)


def _measuring_batches(
    request: PruneRequest,
    model: PreTrainedModel,
    samples: CalibrationSamples,
    *,
    most: int,
    share: int,
) -> list[Batch]:
    """Return the text that divergences are measured on: one of `share` tokens that compensation may take, or `most`."""
    tokens = min(most, request.fitting_tokens // share)
    window = min(max(tokens // FEWEST_MEASURED, SHORTEST_MEASURED), WINDOW_TOKENS)
    return fitting_batches(model, request.checkpoint.config, samples, tokens=tokens, window=window)


def _score(
    request: PruneRequest, model: PreTrainedModel, samples: CalibrationSamples | None, progress: Progress
) -> Scores:
    config = request.checkpoint.config
    assert samples is not None
    assert request.settings is not None
    criterion = request.settings.criterion
    if isinstance(samples, SampleArrays):
        batches, origin = list(samples.batches(model, config)), samples.origin
    elif find_criterion(criterion).reads_texts:
        tokens = _scoring_tokens(config, request.fitting_tokens)
        batches = fitting_batches(model, config, samples, tokens=tokens)
        origin = f"{sum(batch.tokens for batch in batches):,} tokens of {samples.source}"
    else:
        batches, origin = text_batches(model, config, samples.prompts), samples.origin
    with progress.step("Scoring heads and neurons") as advance:
        return score_batches(model, batches, config, criterion=criterion, origin=origin, on_progress=advance)


def _scoring_tokens(config: ModelConfig, allowed: int) -> int:
    """Return the number of tokens to score on, of those that compensation may take."""
    needed = ROWS_PER_COLUMN * config.intermediate_size
    return min(allowed, max(needed, min(SCORING_TOKENS, allowed // SCORING_SHARE)))


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


def _manifest(request: PruneRequest, result: PruneResult) -> Manifest:
    checkpoint, plan = request.checkpoint, result.plan
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
        calibration=result.scored_on,
    )
    return Manifest(
        source=record_source(request.source, checkpoint.path, request.sha256),
        config_before=dict(checkpoint.raw_config),
        config_after=add_old_names(result.rewrite.config),
        rewrite=RewriteRecord(result.rewrite.kind, result.rewrite.class_name, result.rewrite.reason),
        plan=summary,
        verdicts={
            "reload": asdict(result.reload),
            "quality": None if result.quality is None else asdict(result.quality),
            "compensation": None if result.compensation is None else asdict(result.compensation),
        },
    )
