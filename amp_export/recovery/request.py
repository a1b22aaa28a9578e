"""What recovery needs, read and checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind
from amp_export.checkpoints.loading import has_tokenizer, load_tokenizer
from amp_export.checkpoints.reading import Checkpoint
from amp_export.documents import as_read_back, read_object
from amp_export.errors import ModelError, OutputError, RequestError, UnsupportedModelError
from amp_export.extras import require_extra
from amp_export.inputs.texts import Calibration
from amp_export.options import RecoveryMethod
from amp_export.recovery.adapters import check_adaptable
from amp_export.recovery.answers import Examples, read_examples
from amp_export.recovery.lora import ACCUMULATED, steps_of
from amp_export.recovery.schedule import Limits
from amp_export.recovery.windows import Windows, load_text, read_windows
from amp_export.verb_options import RecoverOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MINUTES = 10.0
"""Minutes of distillation if neither time nor steps are given."""

DEFAULT_EPOCHS = 2
"""Epochs of LoRA if no limit is given; the paper's number."""

LEARNING_RATES = {RecoveryMethod.DISTILL: 2e-4, RecoveryMethod.LORA: 3e-4}
"""Largest learning rate of each method by default; of LoRA, the paper's."""

_REQUEST = "request.json"


@dataclass(frozen=True)
class RecoverRequest:
    """Inputs of recovery, read and checked before a model is loaded.

    Attributes:
        dense: The dense checkpoint.
        pruned: The pruned checkpoint.
        text: Where the text is from, and the part of it that quality is measured on.
        material: What is trained on: windows for distillation, instructions for LoRA.
        tokenizer: The pruned checkpoint's tokenizer.
        options: Options of recovery.
        record: What decides on the result, for a run that goes on.
    """

    dense: Checkpoint
    pruned: Checkpoint
    text: Calibration
    material: Windows | Examples
    tokenizer: PreTrainedTokenizerBase
    options: RecoverOptions
    record: Mapping[str, Any]

    @property
    def learning_rate(self) -> float:
        """The largest learning rate."""
        given = self.options.learning_rate
        return LEARNING_RATES[self.options.method] if given is None else given

    @property
    def windows_per_step(self) -> int:
        """Windows or instructions of a step."""
        return ACCUMULATED if isinstance(self.material, Examples) else self.options.windows_per_step or 1

    @property
    def limits(self) -> Limits:
        """When training ends."""
        minutes, steps, epochs = self.options.minutes, self.options.steps, self.options.epochs
        if isinstance(self.material, Examples):
            epochs = DEFAULT_EPOCHS if minutes is None and steps is None and epochs is None else epochs
            by_epochs = None if epochs is None else steps_of(epochs, len(self.material.training))
            steps = min((each for each in (steps, by_epochs) if each is not None), default=None)
        elif minutes is None and steps is None:
            minutes = DEFAULT_MINUTES
        return Limits(steps, None if minutes is None else 60 * minutes)


def check_options(options: RecoverOptions) -> None:
    """Raise an error if options cannot be used.

    Raises:
        RequestError: A limit or the learning rate is not above 0, or an option belongs to another method.
        MissingExtraError: The method needs an extra that is not installed.
    """
    if unused := [f"--{name.replace('_', '-')}" for name in options.without_effect]:
        others = ", ".join(method for method in RecoveryMethod if method is not options.method)
        raise RequestError(
            f"With --method {options.method}, {', '.join(unused)} would have no effect.\nLeave "
            f"{'it' if len(unused) == 1 else 'them'} out, or give --method {others}."
        )
    for name, value in (
        ("minutes", options.minutes),
        ("steps", options.steps),
        ("epochs", options.epochs),
        ("learning-rate", options.learning_rate),
        ("windows-per-step", options.windows_per_step),
    ):
        if value is not None and not value > 0:
            raise RequestError(f"--{name} is {value:g}, and must be above 0.\nFor example: --{name} {_EXAMPLES[name]}")
    if options.method is RecoveryMethod.LORA:
        for module in ("peft", "accelerate"):
            require_extra(module, "recover", needed_for=f"--method {options.method}")


_EXAMPLES = {"minutes": "10", "steps": "100", "epochs": "2", "learning-rate": "2e-4", "windows-per-step": "1"}


def check_recoverable(pruned: Checkpoint, method: RecoveryMethod) -> None:
    """Raise an error if a method cannot train a pruned checkpoint.

    Raises:
        UnsupportedModelError: It is not a decoder, or has projections that the method does not train.
        ModelError: It has no tokenizer.
    """
    if pruned.config.architecture.kind is not Kind.DECODER:
        raise UnsupportedModelError(
            f"recover trains decoders to predict the next token, but {pruned.path} is a "
            f"{pruned.config.class_name}, which does not predict the next token.\nExport it as it is, or prune less: "
            "amp-export prune with a smaller --ratio."
        )
    if method is RecoveryMethod.LORA:
        check_adaptable(pruned.config)
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
    tokenizer = load_tokenizer(pruned.path)
    material: Windows | Examples
    if options.method is RecoveryMethod.LORA:
        material, text = read_examples(tokenizer, options.text, pruned.config)
        content: list[Any] = [[each.input_ids, each.labels] for each in material.all]
    else:
        text = load_text(options.text)
        material = read_windows(tokenizer, text, pruned.config)
        content = [list(map(int, window)) for window in material.all]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    named = {name: value for name, value in vars(options).items() if name != "text"}
    request = RecoverRequest(dense, pruned, text, material, tokenizer, options, {})
    settled = {"learning_rate": request.learning_rate, "windows_per_step": request.windows_per_step}
    return replace(request, record={**about, "text": digest, **named, **settled})


def check_resumed(request: RecoverRequest, state: Path) -> None:
    """Raise OutputError if a run that goes on was begun with another request; write down that of one that begins.

    Args:
        request: The request.
        state: Folder of the training's state.

    Raises:
        OutputError: It was.
    """
    file = state / _REQUEST
    now = as_read_back(request.record)
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
