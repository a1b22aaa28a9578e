"""Progress of a build, from the nested phases that a runtime's progress monitor reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PARTS = 1000
"""Number of steps in which progress is reported."""


@dataclass
class _Phase:
    steps: int
    parent: str | None
    done: int = 0
    # share of the current step that nested phases have completed
    below: float = 0.0

    @property
    def share(self) -> float:
        return min(1.0, (self.done + self.below) / max(1, self.steps))


@dataclass
class BuildProgress:
    """Combines nested phases into one increasing number.

    Attributes:
        on_progress: Called with the number of completed thousandths, and 1000.
        interrupted: Whether the user interrupted the build. Exceptions must not pass through the runtime that calls the
            monitor, so the caller checks this.
    """

    on_progress: Callable[[int, int], None] | None = None
    interrupted: bool = False
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _told: int = 0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase, which may be nested in another."""
        self._phases[name] = _Phase(steps, parent)

    def complete_step(self, name: str, step: int) -> bool:
        """Record a completed step of a phase, and return whether to continue."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done, phase.below = step + 1, 0.0
            self._pass_up(phase)
        return not self.interrupted

    def finish(self, name: str) -> None:
        """End a phase, even if some of its steps were not reported."""
        phase = self._phases.pop(name, None)
        if phase is not None:
            phase.done = phase.steps
            self._pass_up(phase)

    def _pass_up(self, phase: _Phase) -> None:
        while phase.parent is not None and phase.parent in self._phases:
            parent = self._phases[phase.parent]
            # of several phases in one step, the most advanced counts
            parent.below = max(parent.below, phase.share)
            phase = parent
        now = int(phase.share * PARTS)
        if phase.parent is None and now > self._told:
            self._told = now
            if self.on_progress is not None:
                self.on_progress(now, PARTS)


def monitor_class(trt: Any) -> Callable[[BuildProgress], Any]:
    """Return a subclass of the runtime's progress monitor that updates a `BuildProgress`."""

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
