"""Results of checking a report against thresholds and a baseline."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Against(enum.StrEnum):
    """Source of the limit that a number is checked against."""

    THRESHOLDS = "thresholds"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Check:
    """Result of one threshold, or of one number of a baseline.

    Attributes:
        name: Its name, such as `max_size` for a threshold and `size` for a baseline.
        holds: Whether it holds.
        found: The found value, the allowed value and, if it fails, the difference.
        against: Source of the limit.
    """

    name: str
    holds: bool
    found: str
    against: Against

    @property
    def text(self) -> str:
        """The result as one sentence."""
        return f"{self.name}: {'holds' if self.holds else 'FAILS'}, {self.found}."
