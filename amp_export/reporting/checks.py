"""Results of checking a report against thresholds and a baseline."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Against(enum.StrEnum):
    """What a number is checked against."""

    THRESHOLDS = "thresholds"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Check:
    """What came of one threshold, or of one number of a baseline.

    Attributes:
        name: Of which: `max_size` of a threshold, `size` of a baseline.
        holds: Whether it holds.
        found: What was found, what is allowed, and by how much it fails.
        against: What it was checked against.
    """

    name: str
    holds: bool
    found: str
    against: Against

    @property
    def text(self) -> str:
        """One sentence with all of it."""
        return f"{self.name}: {'holds' if self.holds else 'FAILS'}, {self.found}."
