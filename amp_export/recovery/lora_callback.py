"""Follow the Trainer step by step: measure, keep the best adapters, and end it."""

# the Trainer decides on the parameters
# ruff: noqa: ARG002

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from amp_export.progress import Advance
from amp_export.recovery.adapters import adapter_weights
from amp_export.recovery.answers import held_out_loss
from amp_export.recovery.course import SAVE_SECONDS, keep_best, reached, save_best, show
from amp_export.recovery.results import Stop
from amp_export.recovery.trainer_state import Saved, write_saved

if TYPE_CHECKING:
    from peft import PeftModel

    from amp_export.recovery.lora import LoraTraining


class Follow(TrainerCallback):
    """The Trainer's callback; it is imported only where the Trainer is.

    Attributes:
        saved: Where the training stands.
    """

    def __init__(
        self,
        training: LoraTraining,
        adapted: PeftModel,
        saved: Saved,
        *,
        advance: Advance,
        note: Callable[[str], None],
    ) -> None:
        """Take what is trained, and where it stands."""
        self.saved = saved
        self._training, self._adapted, self._advance, self._note = training, adapted, advance, note
        self._began = time.monotonic() - saved.course.seconds
        self._written = time.monotonic()
        self._finite = True

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self._training.limits.progress(self.saved.course.step, self.saved.course.seconds)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take back a gradient that is not finite, so that the step changes nothing."""
        gradients = [each.grad for each in adapter_weights(self._adapted).values() if each.grad is not None]
        self._finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        if not self._finite:
            self._adapted.zero_grad()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the step before the schedule asks how far training is."""
        course = self.saved.course
        course = replace(course, step=course.step + self._finite, seconds=time.monotonic() - self._began)
        self.saved = Saved(course, int(state.num_input_tokens_seen))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Measure if it is time to, and end or save the training."""
        training, course = self._training, self.saved.course
        progress = self.progress
        show(training.limits, course, self._advance)
        is_due = self._finite and course.is_due(progress)
        if not self._finite:
            course = replace(course, stop=Stop.DIVERGED)
        elif is_due:
            loss = held_out_loss(self._adapted, training.model.device, training.examples.held_out)
            self._note(
                f"After step {course.step}: {loss:.4f} nats on held-out answers, {course.start.loss:.4f} at the start."
            )
            course = course.measured(loss, progress)
            if course.best.step == course.step:
                save_best(training.folder, course.step, adapter_weights(self._adapted))
            course = replace(course, seconds=time.monotonic() - self._began)
        if course.stop is None and progress >= 1:
            course = replace(course, stop=reached(training.limits, course))
        self.saved = replace(self.saved, course=course)
        control.should_training_stop = course.stop is not None
        control.should_save = is_due or course.stop is not None or time.monotonic() - self._written > SAVE_SECONDS

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Complete the Trainer's checkpoint."""
        write_saved(self._training.folder / f"checkpoint-{state.global_step}", self.saved.course, self.saved.tokens)
        keep_best(self._training.folder, self.saved.course.best.step)
        self._written = time.monotonic()
