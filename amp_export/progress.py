"""Progress of long work. The library prints nothing; the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, int], None]
"""Called with the number of items done and the total."""


class Progress(Protocol):
    """Receiver of progress."""

    def step(self, description: str) -> AbstractContextManager[Advance]:
        """Open a step; the function that it yields advances the progress bar."""
        ...

    def note(self, message: str) -> None:
        """Show a message."""
        ...


class Silent:
    """Receiver that shows nothing."""

    @contextmanager
    def step(self, description: str) -> Iterator[Advance]:  # noqa: ARG002 - the protocol's parameter
        """Open a step that is not shown."""
        yield lambda _done, _total: None

    def note(self, message: str) -> None:
        """Ignore the message."""
