"""Lists of criteria as they are written on a command line: `amp,wanda`."""

from __future__ import annotations

from amp_export.errors import RequestError
from amp_export.options import CriterionName


def read_criteria(text: str) -> tuple[CriterionName, ...]:
    """Return the criteria of a list, in its order, each once.

    Raises:
        RequestError: One is not known.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in set(CriterionName):
            raise RequestError(
                f"--criteria is {text!r}, and {word!r} is no criterion.\nKnown are {', '.join(CriterionName)}."
            )
    return tuple(dict.fromkeys(map(CriterionName, words)))
