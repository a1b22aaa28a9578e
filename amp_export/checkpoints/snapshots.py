"""Notice that a checkpoint changes while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amp_export.errors import ModelError


@dataclass(frozen=True)
class Snapshot:
    """Facts about the files of a directory that tell when one of them is replaced or written.

    Comparing them costs nothing, while hashing the files again would take as long as reading them.

    Attributes:
        path: The directory.
        find: Finds the files.
        files: Inode, size and time of the last change, by name.
    """

    path: Path
    find: Callable[[Path], Iterable[Path]]
    files: Mapping[str, tuple[int, int, int]]

    @classmethod
    def of(cls, path: Path, find: Callable[[Path], Iterable[Path]]) -> Snapshot:
        """Return the snapshot of a directory as it is now."""
        facts = [(file.relative_to(path).as_posix(), file.stat()) for file in find(path)]
        return cls(path, find, {name: (fact.st_ino, fact.st_size, fact.st_mtime_ns) for name, fact in facts})

    def check(self) -> None:
        """Raise ModelError if a file appeared, disappeared or changed since.

        Raises:
            ModelError: It did.
        """
        now = Snapshot.of(self.path, self.find)
        changed = sorted({name for name, _ in self.files.items() ^ now.files.items()})
        if changed:
            raise ModelError(
                f"{self.path / changed[0]} changed while it was read, so the result would be of no one model.\nRun the "
                "command again when nothing writes to the checkpoint, or copy it first."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Check after the block; an error in it is taken for a consequence of a change, if there was one.

        Raises:
            ModelError: A file changed since the snapshot was taken.
        """
        try:
            yield
        except Exception as error:
            try:
                self.check()
            except ModelError as changed:
                raise changed from error
            raise
        self.check()
