"""Progress of long work. The library is silent; the command line draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, int], None]
"""Called with how much is done and how much there is in all."""


class Progress(Protocol):
    """Shows steps of work."""

    def step(self, description: str) -> AbstractContextManager[Advance]:
        """Open a step; what it yields moves its bar."""
        ...

    def note(self, message: str) -> None:
        """Say one thing."""
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def step(self, description: str) -> Iterator[Advance]:  # noqa: ARG002 - the protocol's parameter
        """Open a step that is not shown."""
        yield lambda _done, _total: None

    def note(self, message: str) -> None:
        """Say nothing."""
