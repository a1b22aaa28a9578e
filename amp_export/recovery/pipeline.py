"""Recover a pruned model: read the text, train, write the checkpoint, check the reload, and measure its quality."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from amp_export.architectures import RESIZED_MODEL_TYPE, Kind
from amp_export.checkpoints.loading import has_tokenizer, load_model, load_tokenizer
from amp_export.checkpoints.reading import Checkpoint
from amp_export.documents import decode_json, read_object
from amp_export.errors import ModelError, OutputError, RequestError, UnsupportedModelError
from amp_export.inputs.texts import Calibration
from amp_export.outputs.names import PRUNED
from amp_export.progress import Progress
from amp_export.pruning.held_out import compare_on, run_dense_on
from amp_export.pruning.quality import Quality
from amp_export.pruning.reload_check import ReloadProof, expect, prove_reload
from amp_export.pruning.saving import save_trained
from amp_export.recovery.course import Course, load_best
from amp_export.recovery.dense_targets import DenseTargets
from amp_export.recovery.devices import CPU, checkpoint_layers, choose_device, move
from amp_export.recovery.distilling import Training, distill, held_out_divergence
from amp_export.recovery.results import Recovery
from amp_export.recovery.schedule import Limits
from amp_export.recovery.windows import Windows, load_text, read_windows
from amp_export.verb_options import RecoverOptions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MINUTES = 10.0
"""Minutes of training if neither time nor steps are given."""

_REQUEST = "request.json"


@dataclass(frozen=True)
class RecoverRequest:
    """Inputs of recovery, read and checked before a model is loaded.

    Attributes:
        dense: The dense checkpoint.
        pruned: The pruned checkpoint.
        text: The text: rows to train on, and rows held out that quality is measured on.
        windows: Windows of the rows to train on.
        tokenizer: The pruned checkpoint's tokenizer.
        options: Options of recovery.
        record: What decides on the result, for a run that goes on.
    """

    dense: Checkpoint
    pruned: Checkpoint
    text: Calibration
    windows: Windows
    tokenizer: PreTrainedTokenizerBase
    options: RecoverOptions
    record: Mapping[str, Any]

    @property
    def limits(self) -> Limits:
        """When training ends."""
        minutes, steps = self.options.minutes, self.options.steps
        minutes = DEFAULT_MINUTES if minutes is None and steps is None else minutes
        return Limits(steps, None if minutes is None else 60 * minutes)


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


def check_options(options: RecoverOptions) -> None:
    """Raise RequestError if options cannot be used.

    Raises:
        RequestError: A limit or the learning rate is not above 0.
    """
    for name, value in (
        ("minutes", options.minutes),
        ("steps", options.steps),
        ("learning-rate", options.learning_rate),
        ("windows-per-step", options.windows_per_step),
    ):
        if value is not None and not value > 0:
            raise RequestError(f"--{name} is {value:g}, and must be above 0.\nFor example: --{name} {_EXAMPLES[name]}")


_EXAMPLES = {"minutes": "10", "steps": "100", "learning-rate": "2e-4", "windows-per-step": "1"}


def check_recoverable(pruned: Checkpoint) -> None:
    """Raise an error if a pruned checkpoint cannot be trained towards its dense model's predictions.

    Raises:
        UnsupportedModelError: It is not a decoder.
        ModelError: It has no tokenizer.
    """
    if pruned.config.architecture.kind is not Kind.DECODER:
        raise UnsupportedModelError(
            f"recover trains decoders towards the next tokens that the dense model predicts, but {pruned.path} is a "
            f"{pruned.config.class_name}, which does not predict the next token.\nExport it as it is, or prune less: "
            "amp-export prune with a smaller --ratio."
        )
    if not has_tokenizer(pruned.path):
        raise ModelError(
            f"{pruned.path} holds no tokenizer, and recovery trains on text.\nSave the tokenizer next to the dense "
            "weights with tokenizer.save_pretrained(), and prune again."
        )


def prepare(
    dense: Checkpoint, pruned: Checkpoint, options: RecoverOptions, *, about: Mapping[str, Any]
) -> RecoverRequest:
    """Read and check everything that recovery needs.

    Args:
        dense: The dense checkpoint.
        pruned: The pruned checkpoint.
        options: Options of recovery.
        about: Facts on the two checkpoints that an unfinished run must agree with.

    Raises:
        CalibrationError: The text cannot be read, or is too short.
        ModelError: The tokenizer fails on it.
    """
    text, tokenizer = load_text(options.text), load_tokenizer(pruned.path)
    windows = read_windows(tokenizer, text, pruned.config)
    digest = hashlib.sha256(json.dumps([list(map(int, window)) for window in windows.all]).encode()).hexdigest()
    named = {name: value for name, value in vars(options).items() if name != "text"}
    return RecoverRequest(dense, pruned, text, windows, tokenizer, options, {**about, "text": digest, **named})


def check_resumed(request: RecoverRequest, state: Path) -> None:
    """Raise OutputError if a run that goes on was begun with another request; write down that of one that begins.

    Args:
        request: The request.
        state: Folder of the training's state.

    Raises:
        OutputError: It was.
    """
    file = state / _REQUEST
    now: dict[str, Any] = decode_json(json.dumps(request.record))
    if not file.is_file():
        file.write_text(json.dumps(now), encoding="utf-8")
        return
    before = read_object(file)
    other = [f"{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]]
    if other:
        raise OutputError(
            f"The unfinished run cannot be resumed, since it was begun with other options: {'; '.join(other)}.\nGive "
            "the options of before, or leave --resume out to begin again."
        )


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
    with request.dense.snapshot.held(), request.pruned.snapshot.held():
        device = choose_device()
        with progress.step("Loading both models") as _:
            dense = move(load_model(request.dense.path), device)
        targets = DenseTargets(dense, request.windows.all, state)
        course = _train(request, targets, state, progress)
        if course.best.step == 0:
            return Recovered(_record(request, course, course.best.kl))
        model = _with_weights(request, load_best(state, course.best.step))
        kl = _stored_divergence(request, model, targets)
        if kl >= course.start.kl:
            # rounding to the checkpoint's dtype took back what training gained
            return Recovered(replace(_record(request, course, course.start.kl), best_step=0))
        # what is compared from here on is what runs on a CPU
        quality = _measure_quality(request, move(dense, CPU), model, progress)
        return Recovered(_record(request, course, kl), _write(folder, request, model, progress), quality)


def _train(request: RecoverRequest, targets: DenseTargets, state: Path, progress: Progress) -> Course:
    import torch

    device = targets.model.device
    student = move(load_model(request.pruned.path, dtype=torch.float32), str(device))
    if device.type != "cpu":
        checkpoint_layers(student, request.pruned.config)
    training = Training(student, targets, request.windows, request.options, request.limits, state)
    with progress.step("Distilling the dense model") as advance:
        return distill(training, advance=advance, note=progress.note)


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


def _stored_divergence(request: RecoverRequest, model: PreTrainedModel, targets: DenseTargets) -> float:
    """Return the divergence of the weights as they are stored, in the arithmetic in which the start was measured."""
    import torch

    stored = dict(model.named_parameters())
    exact = move(_with_weights(request, stored, dtype=torch.float32), str(targets.model.device))
    return held_out_divergence(exact, targets, len(request.windows.held_out))


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
    with progress.step("Comparing the recovered model with the dense one") as _, TemporaryDirectory() as scratch:
        runs = run_dense_on(dense, request.tokenizer, request.pruned.config, request.text, Path(scratch))
        return None if runs is None else compare_on(model, runs)


def _record(request: RecoverRequest, course: Course, kl: float) -> Recovery:
    assert course.stop is not None
    options, windows = request.options, request.windows
    return Recovery(
        method=options.method,
        text=request.text.source,
        stop=course.stop,
        steps=course.step,
        tokens=course.step * options.windows_per_step * windows.length,
        window_tokens=windows.length,
        windows_per_step=options.windows_per_step,
        learning_rate=options.learning_rate,
        seed=options.seed,
        seconds=course.seconds,
        best_step=course.best.step,
        kl_before=course.start.kl,
        kl_after=kl,
        measurements=course.measurements,
    )
