"""Recover a pruned model: train it, write the checkpoint, check the reload, and measure its quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from amp_export.architectures import RESIZED_MODEL_TYPE
from amp_export.checkpoints.loading import load_model
from amp_export.hardware.placement import CPU, choose_device, move
from amp_export.inputs.calibration_tokens import CalibrationTokens
from amp_export.options import RecoveryMethod
from amp_export.outputs.names import PRUNED
from amp_export.progress import Progress
from amp_export.pruning.held_out import compare_on, run_dense_on
from amp_export.pruning.quality import Quality
from amp_export.pruning.reload_check import ReloadProof, expect, prove_reload
from amp_export.pruning.saving import save_trained
from amp_export.recovery.adapters import Adapters, merge
from amp_export.recovery.answers import Examples, held_out_loss
from amp_export.recovery.course import load_best
from amp_export.recovery.dense_targets import DenseTargets
from amp_export.recovery.devices import checkpoint_layers
from amp_export.recovery.distilling import Training, distill, held_out_divergence
from amp_export.recovery.lora import LoraTraining, train
from amp_export.recovery.request import RecoverRequest
from amp_export.recovery.results import Recovery
from amp_export.recovery.trained import Trained
from amp_export.recovery.windows import Windows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Recovered:
    """Result of recovery.

    Attributes:
        recovery: How the model was trained, and what came of it.
        reload: Proof that transformers loads the new checkpoint; None if the weights stay as they were.
        quality: Quality compared with the dense model; None for the same reason, or without held-out text.
    """

    recovery: Recovery
    reload: ReloadProof | None = None
    quality: Quality | None = None


def recover_into(folder: Path, request: RecoverRequest, state: Path, progress: Progress) -> Recovered:
    """Train, and write the new checkpoint into a staged folder, unless no step made the model better.

    Args:
        folder: The staged folder.
        request: What to train.
        state: Folder of the training's state, from which it goes on.
        progress: Where to show progress.

    Raises:
        VerificationError: The reloaded checkpoint does not compute the same as the model in memory.
    """
    methods = {RecoveryMethod.DISTILL: _distill, RecoveryMethod.LORA: _adapt}
    with request.dense.snapshot.held(), request.pruned.snapshot.held():
        device = choose_device()
        trained = methods[request.options.method](request, device, state, progress)
        course = trained.course
        if course.best.step == 0:
            return Recovered(_record(request, trained, course.best.loss))
        model = _with_weights(request, trained.weights())
        loss = _stored_loss(request, model, trained, device)
        if loss >= course.start.loss:
            # rounding to the checkpoint's dtype took back what training gained
            return Recovered(replace(_record(request, trained, course.start.loss), best_step=0))
        # what is compared from here on is what runs on a CPU
        dense = load_model(request.dense.path) if trained.dense is None else move(trained.dense, CPU)
        quality = _measure_quality(request, dense, model, progress)
        return Recovered(_record(request, trained, loss), _write(folder, request, model, progress), quality)


def _distill(request: RecoverRequest, device: str, state: Path, progress: Progress) -> Trained:
    import torch

    assert isinstance(request.material, Windows)
    windows = request.material
    with progress.step("Loading both models") as _:
        dense = move(load_model(request.dense.path), device)
        student = move(load_model(request.pruned.path, dtype=torch.float32), device)
    if device != CPU:
        checkpoint_layers(student, request.pruned.config)
    targets = DenseTargets(dense, windows.all, state)
    training = Training(
        student,
        targets,
        windows,
        learning_rate=request.learning_rate,
        windows_per_step=request.windows_per_step,
        seed=request.options.seed,
        limits=request.limits,
        folder=state,
    )
    with progress.step("Distilling the dense model") as advance:
        course = distill(training, advance=advance, note=progress.note)
    return Trained(
        course,
        tokens=course.step * request.windows_per_step * windows.length,
        weights=lambda: load_best(state, course.best.step),
        loss=lambda model: held_out_divergence(model, targets, len(windows.held_out)),
        dense=dense,
    )


def _adapt(request: RecoverRequest, device: str, state: Path, progress: Progress) -> Trained:
    import torch

    assert isinstance(request.material, Examples)
    examples, config = request.material, request.pruned.config
    with progress.step("Loading the pruned model") as _:
        model = move(load_model(request.pruned.path, dtype=torch.float32), device)
    training = LoraTraining(
        model,
        config,
        examples,
        Adapters(),
        learning_rate=request.learning_rate,
        seed=request.options.seed,
        limits=request.limits,
        folder=state,
    )
    with progress.step("Training adapters") as advance:
        adapted, saved = train(training, advance=advance, note=progress.note)
    return Trained(
        saved.course,
        tokens=saved.tokens,
        weights=lambda: merge(adapted, config, load_best(state, saved.course.best.step)),
        loss=lambda stored: held_out_loss(stored, stored.device, examples.held_out),
    )


def _with_weights(
    request: RecoverRequest, weights: Mapping[str, torch.Tensor], *, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Return the pruned model with some of its weights replaced, by default in the dtype of its checkpoint."""
    import torch

    model = load_model(request.pruned.path, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    return model


def _stored_loss(request: RecoverRequest, model: PreTrainedModel, trained: Trained, device: str) -> float:
    """Return the loss of the weights as they are stored, in the arithmetic in which the start was measured."""
    import torch

    stored = dict(model.named_parameters())
    return trained.loss(move(_with_weights(request, stored, dtype=torch.float32), device))


def _write(folder: Path, request: RecoverRequest, model: PreTrainedModel, progress: Progress) -> ReloadProof:
    expected = expect(model, request.pruned.config, request.tokenizer)
    is_stock = request.pruned.raw_config["model_type"] != RESIZED_MODEL_TYPE
    with progress.step("Writing the recovered checkpoint") as _:
        save_trained(folder / PRUNED, model, request.pruned, as_stored=is_stock)
    with progress.step("Reloading it in a separate process") as _:
        return prove_reload(folder / PRUNED, expected, stock=is_stock)


def _measure_quality(
    request: RecoverRequest, dense: PreTrainedModel, model: PreTrainedModel, progress: Progress
) -> Quality | None:
    """Measure perplexity on rows that were held out, as pruning does."""
    samples = CalibrationTokens(request.text, request.tokenizer, request.pruned.config)
    with progress.step("Comparing the recovered model with the dense one") as _, TemporaryDirectory() as scratch:
        runs = run_dense_on(dense, samples, Path(scratch))
        return None if runs is None else compare_on(model, runs)


def _record(request: RecoverRequest, trained: Trained, loss: float) -> Recovery:
    course, options = trained.course, request.options
    assert course.stop is not None
    return Recovery(
        method=options.method,
        text=request.text.source,
        stop=course.stop,
        steps=course.step,
        tokens=trained.tokens,
        window_tokens=request.material.length,
        windows_per_step=request.windows_per_step,
        learning_rate=request.learning_rate,
        seed=options.seed,
        seconds=course.seconds,
        best_step=course.best.step,
        loss_before=course.start.loss,
        loss_after=loss,
        measurements=course.measurements,
        adapters=Adapters() if options.method is RecoveryMethod.LORA else None,
    )
