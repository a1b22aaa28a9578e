"""Train a pruned model towards the dense model's predictions.

1. Measure the divergence on held-out windows: the start.
2. Take steps: the divergence on one window or more, its gradient, clipped, and AdamW.
3. Eight times in the course, measure the divergence again, and keep the weights if it is the smallest so far.
4. End with the last step or the time, if the divergence no longer falls, or if it rises far above the start.

Embeddings and LM head stay as they are: pruning leaves them alone, and they would be trained on few of their tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.progress import Advance
from amp_export.recovery.course import SAVE_SECONDS, Course, State, reached, save_best, show
from amp_export.recovery.devices import precision, run_windows
from amp_export.recovery.results import Measurement, Stop
from amp_export.recovery.schedule import Limits, learning_rate, windows_of
from amp_export.recovery.targets import divergence

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.recovery.dense_targets import DenseTargets
    from amp_export.recovery.windows import Windows

LARGEST_NORM = 1.0
"""Gradients with a larger norm are scaled down to it."""


@dataclass(frozen=True)
class Training:
    """What is trained, and on what.

    Attributes:
        student: The pruned model in float32; training changes its weights.
        targets: The dense model's predictions on `windows.all`.
        windows: The windows.
        learning_rate: The largest learning rate.
        windows_per_step: Windows of a step.
        seed: Seed of the order of the windows.
        limits: When training ends.
        folder: Folder of the state, and of the best weights.
    """

    student: PreTrainedModel
    targets: DenseTargets
    windows: Windows
    learning_rate: float
    windows_per_step: int
    seed: int
    limits: Limits
    folder: Path


def distill(training: Training, *, advance: Advance, note: Callable[[str], None]) -> Course:
    """Train, or go on from the state in the training's folder.

    Args:
        training: What is trained; the weights of its best step are in its folder afterwards, unless that is the start.
        advance: Called with steps or seconds, those done and all.
        note: Called with a message for each measurement.

    Returns:
        The course of the training, which has ended.
    """
    import torch

    weights = freeze_embeddings(training.student)
    optimizer = torch.optim.AdamW(weights.values(), lr=training.learning_rate, weight_decay=0.0)
    course = _begin(training, weights, optimizer, note)
    began = time.monotonic() - course.seconds
    saved = time.monotonic()
    while course.stop is None:
        progress = training.limits.progress(course.step, course.seconds)
        finite = _step(training, weights, optimizer, course.step, progress)
        course = replace(course, step=course.step + finite, seconds=time.monotonic() - began)
        progress = training.limits.progress(course.step, course.seconds)
        show(training.limits, course, advance)
        is_due = finite and course.is_due(progress)
        if not finite:
            course = replace(course, stop=Stop.DIVERGED)
        elif is_due:
            course = _measure(training, weights, course, progress, note)
            course = replace(course, seconds=time.monotonic() - began)
        if course.stop is None and progress >= 1:
            course = replace(course, stop=reached(training.limits, course))
        if is_due or course.stop is not None or time.monotonic() - saved > SAVE_SECONDS:
            State(course, weights, optimizer.state_dict()).save(training.folder)
            saved = time.monotonic()
    return course


def freeze_embeddings(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Let all weights of a model be trained but those of embeddings and LM head, and return them by name."""
    import torch

    modules = [each for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    head = model.get_output_embeddings()
    frozen = {id(each) for module in (*modules, head) if module is not None for each in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def held_out_divergence(model: PreTrainedModel, targets: DenseTargets, count: int) -> float:
    """Return the mean divergence of a model on the first windows, those held out, in nats per token.

    Args:
        model: The model.
        targets: The dense model's predictions.
        count: Number of windows.
    """
    import torch

    total = 0.0
    with torch.no_grad(), precision(model.device):
        for number in range(count):
            logits_pv = run_windows(model, [targets.windows[number]])
            total += divergence(logits_pv, targets.of(number)).mean().item()
    return total / count


def _begin(
    training: Training,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    note: Callable[[str], None],
) -> Course:
    """Return the course so far, with weights and optimizer as they were; measure the start if there is none."""
    import torch

    if (state := State.load(training.folder, training.student.device)) is None:
        began = time.monotonic()
        kl = held_out_divergence(training.student, training.targets, len(training.windows.held_out))
        note(f"KL divergence from the dense model on held-out text: {kl:.4f} nats.")
        return Course((Measurement(0, kl),), seconds=time.monotonic() - began)
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(state.weights[name])
    optimizer.load_state_dict(dict(state.optimizer))
    note(f"Training goes on after step {state.course.step}.")
    return state.course


def _step(
    training: Training,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    progress: float,
) -> bool:
    """Take one step, and return whether the gradient was finite; if not, the weights stay as they are."""
    import torch

    windows = training.windows
    numbers = windows_of(step, count=len(windows.training), per_step=training.windows_per_step, seed=training.seed)
    optimizer.zero_grad()
    for number in numbers:
        targets = training.targets.of(len(windows.held_out) + number)
        with precision(training.student.device):
            logits_pv = run_windows(training.student, [windows.training[number]])
        torch.autograd.backward(divergence(logits_pv, targets).mean() / len(numbers))
    norm = torch.nn.utils.clip_grad_norm_(weights.values(), LARGEST_NORM)
    if not torch.isfinite(norm):
        return False
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(training.learning_rate, training.limits, step=step, progress=progress)
    optimizer.step()
    return True


def _measure(
    training: Training,
    weights: Mapping[str, torch.Tensor],
    course: Course,
    progress: float,
    note: Callable[[str], None],
) -> Course:
    kl = held_out_divergence(training.student, training.targets, len(training.windows.held_out))
    note(f"After step {course.step}: {kl:.4f} nats on held-out text, {course.start.loss:.4f} at the start.")
    measured = course.measured(kl, progress)
    if measured.best.step == course.step:
        save_best(training.folder, course.step, weights)
    return measured
