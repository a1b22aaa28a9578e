"""Measurements that are finished, in files, so that a run which is stopped need not be repeated from the start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from amp_export.documents import convert, parse_json, read_text, to_json
from amp_export.outputs.staging import replace_text

Result = TypeVar("Result")


@dataclass(frozen=True)
class Finished:
    """Finished measurements of one model.

    Attributes:
        folder: Where they are, or None if none are kept.
        about: The hashes of the model's files, and the versions that compute it.
    """

    folder: Path | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def recall(self, kind: type[Result], what: Any, measure: Callable[[], Result]) -> Result:
        """Return a measurement that is kept, or else measure and keep it.

        Args:
            kind: Type of the result.
            what: All that it depends on besides the model: the questions or the text, and the settings.
            measure: Measures it.
        """
        if self.folder is None:
            return measure()
        key = to_json({"kind": kind.__name__, "about": self.about, "what": what})
        file = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        if file.is_file():
            return convert(parse_json(read_text(file), source=str(file)), kind, source=str(file))
        result = measure()
        replace_text(file, to_json(result))
        return result
