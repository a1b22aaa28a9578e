"""Train low-rank adapters of a pruned model on instructions, with transformers' Trainer, and merge them.

The course is that of distillation: the loss on held-out answers is measured at the start and eight times on the way,
the adapters with the smallest are kept, and training ends early as `Course` says. The Trainer's checkpoints, each with
the course so far, are what a resumed run goes on from.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.progress import Advance
from amp_export.recovery.adapters import Adapters, add_adapters
from amp_export.recovery.answers import Examples, answer_loss, batch_of, held_out_loss
from amp_export.recovery.course import Course
from amp_export.recovery.devices import checkpoint_layers
from amp_export.recovery.results import Measurement
from amp_export.recovery.schedule import Limits
from amp_export.recovery.trainer_state import Saved, last_saved

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, TrainingArguments

    from amp_export.architectures import ModelConfig

ACCUMULATED = 16
"""Instructions of a step, one after the other; the paper's number."""

LARGEST_NORM = 1.0
"""Gradients with a larger norm are scaled down to it; the default of transformers' Trainer, which the paper uses."""

_MANY_STEPS = 10**9


@dataclass(frozen=True)
class LoraTraining:
    """What is trained, and on what.

    Attributes:
        model: The pruned model in float32 on its device; training changes it.
        config: Its config.
        examples: The instructions.
        adapters: Shape of the adapters.
        learning_rate: The largest learning rate.
        seed: Seed of the adapters' first values, of the order of the instructions, and of dropout.
        limits: When training ends.
        folder: Folder of the state, and of the best adapters.
    """

    model: PreTrainedModel
    config: ModelConfig
    examples: Examples
    adapters: Adapters
    learning_rate: float
    seed: int
    limits: Limits
    folder: Path


def steps_of(epochs: int, examples: int) -> int:
    """Return the steps of some epochs, each of which ends with a step of what is left."""
    return epochs * math.ceil(examples / ACCUMULATED)


def train(training: LoraTraining, *, advance: Advance, note: Callable[[str], None]) -> tuple[PeftModel, Saved]:
    """Train, or go on from the state in the training's folder.

    Args:
        training: What is trained; the adapters of its best step are in its folder afterwards, unless that is the start.
        advance: Called with steps or seconds, those done and all.
        note: Called with a message for each measurement.

    Returns:
        The model with the adapters of the last step, and the course, which has ended.
    """
    if training.model.device.type != "cpu":
        checkpoint_layers(training.model, training.config)
    with _quietly(), _random_state_kept():
        adapted = add_adapters(training.model, training.config, training.adapters, seed=training.seed)
        saved, checkpoint = last_saved(training.folder)
        if saved is None:
            loss = held_out_loss(adapted, training.model.device, training.examples.held_out)
            note(f"Loss on held-out answers: {loss:.4f} nats per token.")
            saved = Saved(Course((Measurement(0, loss),)))
        else:
            note(f"Training goes on after step {saved.course.step}.")
        if saved.course.stop is None:
            saved = _run(training, adapted, saved, checkpoint, advance=advance, note=note)
    return adapted, saved


def _run(
    training: LoraTraining,
    adapted: PeftModel,
    saved: Saved,
    checkpoint: Path | None,
    *,
    advance: Advance,
    note: Callable[[str], None],
) -> Saved:
    import torch
    from transformers import PrinterCallback, Trainer

    from amp_export.recovery.lora_callback import Follow

    follow = Follow(training, adapted, saved, advance=advance, note=note)
    optimizer = torch.optim.AdamW(
        [each for each in adapted.parameters() if each.requires_grad], lr=training.learning_rate, weight_decay=0.0
    )
    # linear without a warm-up; in steps as the Trainer's own, and in time if that is the limit
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1 - follow.progress)
    trainer = Trainer(
        model=adapted,
        args=_arguments(training),
        data_collator=batch_of,
        train_dataset=list(training.examples.training),
        optimizers=(optimizer, schedule),
        compute_loss_func=_mean_loss,
        callbacks=[follow],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return follow.saved


def _mean_loss(outputs: Any, labels_bs: torch.Tensor, *, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
    """Return an instruction's share of the mean over all answers' tokens of a step."""
    return answer_loss(outputs.logits, labels_bs) / num_items_in_batch


def _arguments(training: LoraTraining) -> TrainingArguments:
    from transformers import TrainingArguments

    on_gpu = training.model.device.type != "cpu"
    arguments = TrainingArguments(
        output_dir=str(training.folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ACCUMULATED,
        max_steps=training.limits.steps or _MANY_STEPS,
        max_grad_norm=LARGEST_NORM,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        seed=training.seed,
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        include_num_input_tokens_seen="all",
    )
    # one GPU, whichever are there: the others would compute on copies of the model, and change the result
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextmanager
def _quietly() -> Iterator[None]:
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave the random states of the process as they were: the Trainer seeds all of them."""
    import numpy as np
    import torch

    state, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what it seeds
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(arrays)  # noqa: NPY002
