"""Rotary embeddings of positions in time, height and width, which the pairs of a head's dimensions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amp_export.errors import ModelError

SECTIONS = "mrope_section"
"""Field of `rope_parameters`: number of pairs that each axis turns."""

AXES_FIELDS = (SECTIONS, "mrope_interleaved")
"""Fields of `rope_parameters` that matter to images alone: on text, positions in time, height and width are one and the
same. transformers does not read the second; the type of the model decides."""

NUM_AXES = 3
"""Time, height and width, in the order of the rows of `position_ids`."""


@dataclass(frozen=True)
class PositionAxes:
    """Which of a token's positions, in time, height and width, turns each pair of a head's dimensions.

    Source: `recomposition_frequencies`, `modeling_qwen2_5_vl.py` and `modeling_qwen3_vl.py`, transformers 5.24.

    Attributes:
        sections: Number of pairs of each axis, where the config does not say it.
        interleaved: Whether pairs take turns, those that are left being of time; otherwise each axis has a run of them.
    """

    sections: tuple[int, ...]
    interleaved: bool = False

    def of_pairs(self, pairs: int, sections: Sequence[int] | None) -> tuple[int, ...]:
        """Return the axis of each pair of dimensions.

        Args:
            pairs: Number of pairs.
            sections: `mrope_section`; None if the config has none.

        Raises:
            ModelError: They are not the sections of so many pairs.
        """
        counts = tuple(sections if sections is not None else self.sections)
        if self.interleaved and len(counts) == NUM_AXES:
            turns = range(pairs)
            return tuple(pair % NUM_AXES if pair < counts[pair % NUM_AXES] * NUM_AXES else 0 for pair in turns)
        if self.interleaved or sum(counts) != pairs:
            raise ModelError(
                f"config.json: {SECTIONS} is {list(counts)}, but a head has {pairs} pairs of dimensions to share among "
                "time, height and width.\nUse the config.json that belongs to the weights."
            )
        return tuple(number % NUM_AXES for number, count in enumerate(counts) for _ in range(count))
