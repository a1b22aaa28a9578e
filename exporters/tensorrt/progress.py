"""How far a build is, from the phases within phases that a runtime's progress monitor tells of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PARTS = 1000
"""How finely progress is told."""


@dataclass
class _Phase:
    steps: int
    parent: str | None
    done: int = 0
    # how much of the step under way the phases below it have done
    below: float = 0.0

    @property
    def share(self) -> float:
        return min(1.0, (self.done + self.below) / max(1, self.steps))


@dataclass
class BuildProgress:
    """Turns phases into one number that grows.

    Attributes:
        on_progress: Called with how many thousandths are done, and a thousand.
        interrupted: Whether the user asked to stop. The runtime calls from within its own code, through which no
            exception may pass, so that the caller has to look.
    """

    on_progress: Callable[[int, int], None] | None = None
    interrupted: bool = False
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _told: int = 0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase, perhaps within another."""
        self._phases[name] = _Phase(steps, parent)

    def complete_step(self, name: str, step: int) -> bool:
        """Return a step of a phase is done; returns whether to go on."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done, phase.below = step + 1, 0.0
            self._pass_up(phase)
        return not self.interrupted

    def finish(self, name: str) -> None:
        """End a phase, whether all its steps were reported or not."""
        phase = self._phases.pop(name, None)
        if phase is not None:
            phase.done = phase.steps
            self._pass_up(phase)

    def _pass_up(self, phase: _Phase) -> None:
        while phase.parent is not None and phase.parent in self._phases:
            parent = self._phases[phase.parent]
            # of several phases within one step, the one that is farthest counts
            parent.below = max(parent.below, phase.share)
            phase = parent
        now = int(phase.share * PARTS)
        if phase.parent is None and now > self._told:
            self._told = now
            if self.on_progress is not None:
                self.on_progress(now, PARTS)


def monitor_class(trt: Any) -> Callable[[BuildProgress], Any]:
    """Return the runtime's progress monitor that updates a `BuildProgress`; its base class is the runtime's own."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, progress: BuildProgress) -> None:
            trt.IProgressMonitor.__init__(self)
            self._progress = progress

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._guard(lambda: self._progress.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guard(lambda: self._progress.complete_step(phase_name, step))
            return not self._progress.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._guard(lambda: self._progress.finish(phase_name))

        def _guard(self, tell: Callable[[], object]) -> None:
            try:
                tell()
            except KeyboardInterrupt:
                self._progress.interrupted = True

    return Monitor
