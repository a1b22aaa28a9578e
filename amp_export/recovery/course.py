"""The course of a training: where it stands, what was measured, and when it ends; saved so that it can go on."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.documents import convert, to_builtins
from amp_export.errors import OutputError
from amp_export.progress import Advance
from amp_export.recovery.results import Measurement, Stop
from amp_export.recovery.schedule import Limits

if TYPE_CHECKING:
    import torch

MEASUREMENTS = 8
"""Times that the loss on held-out text is measured in the course of a training, evenly spread."""

PATIENCE = 3
"""Measurements in a row without a new best after which training ends."""

DIVERGED = 0.1
"""Nats above the loss of the start from which on training has diverged. A model that is well fitted may rise less at
first, while the learning rate is largest.
"""

SAVE_SECONDS = 300.0
"""Seconds after which the state is saved, if no measurement saves it before."""

_STATE, _BEST = "state.pt", "best-{step}.safetensors"


@dataclass(frozen=True)
class Course:
    """Where a training stands.

    Attributes:
        measurements: The loss on held-out text at the start, and in the course of the training.
        step: Number of steps taken.
        seconds: Seconds that they took, with those of measurements and of the dense model.
        due: Number of measurements after the start that the progress so far asked for.
        stop: Why it ended; None if it goes on.
    """

    measurements: tuple[Measurement, ...]
    step: int = 0
    seconds: float = 0.0
    due: int = 0
    stop: Stop | None = None

    @property
    def start(self) -> Measurement:
        """The loss before training."""
        return self.measurements[0]

    @property
    def best(self) -> Measurement:
        """The smallest loss; the first of equal ones."""
        return min(self.measurements, key=lambda each: each.loss)

    def is_due(self, progress: float) -> bool:
        """Return whether the loss is to be measured at this progress."""
        return math.floor(progress * MEASUREMENTS) > self.due

    def measured(self, loss: float, progress: float) -> Course:
        """Return the course with one more measurement, which may end it.

        A loss far above that of the start, or one that is not a number, ends it; so does one that did not fall for
        some time.
        """
        added = replace(self, due=math.floor(progress * MEASUREMENTS))
        if not math.isfinite(loss):
            return replace(added, stop=Stop.DIVERGED)
        added = replace(added, measurements=(*self.measurements, Measurement(self.step, loss)))
        if loss > self.start.loss + DIVERGED:
            return replace(added, stop=Stop.DIVERGED)
        since_best = sum(each.step > added.best.step for each in added.measurements)
        return replace(added, stop=Stop.NO_GAIN) if since_best >= PATIENCE else added


@dataclass(frozen=True)
class State:
    """What a training goes on from.

    Attributes:
        course: Where it stands.
        weights: The weights that are trained, by name.
        optimizer: State of the optimizer.
    """

    course: Course
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write the state, in place of an earlier one, and remove the weights that no longer are the best."""
        import torch

        content = {
            "course": to_builtins(self.course),
            "weights": {name: tensor.detach() for name, tensor in self.weights.items()},
            "optimizer": dict(self.optimizer),
        }
        partial = folder / f"{_STATE}.partial"
        torch.save(content, partial)
        partial.replace(folder / _STATE)
        keep_best(folder, self.course.best.step)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> State | None:
        """Read the state; None if there is none.

        Raises:
            OutputError: It is damaged.
        """
        import torch

        file = folder / _STATE
        if not file.is_file():
            return None
        try:
            content = torch.load(file, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise OutputError(
                f"{file} is damaged, so that training cannot go on from there.\nLeave --resume out to begin again."
            ) from error
        course = convert(content["course"], Course, source=str(file))
        return cls(course, content["weights"], content["optimizer"])


def save_best(folder: Path, step: int, weights: Mapping[str, torch.Tensor]) -> None:
    """Write the best weights so far; those of before stay until the state that names them is replaced."""
    from safetensors.torch import save_file

    file = _best_file(folder, step)
    partial = file.with_suffix(".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, partial)
    partial.replace(file)


def load_best(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Read the best weights, which are those of a step after the start."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(_best_file(folder, step))
    return found


def keep_best(folder: Path, step: int) -> None:
    """Remove the weights that no longer are the best; only a state that is saved may ask for it."""
    kept = _best_file(folder, step)
    for file in folder.glob(_BEST.format(step="*")):
        if file != kept:
            file.unlink()


def reached(limits: Limits, course: Course) -> Stop:
    """Return which limit was reached."""
    return Stop.STEPS if limits.steps is not None and course.step >= limits.steps else Stop.TIME


def show(limits: Limits, course: Course, advance: Advance) -> None:
    """Show the limit that is nearest."""
    by_time = replace(limits, steps=None).progress(course.step, course.seconds)
    if limits.steps is not None and by_time <= course.step / limits.steps:
        advance(course.step, limits.steps)
    elif limits.seconds is not None:
        advance(int(course.seconds), int(limits.seconds))


def _best_file(folder: Path, step: int) -> Path:
    return folder / _BEST.format(step=step)
