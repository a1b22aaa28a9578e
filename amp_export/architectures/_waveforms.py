"""How models that take raw audio turn it into frames, which are their tokens."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amp_export.architectures._computation import Conditions


class Padding(enum.StrEnum):
    """Which frames are real, where the last samples are padding."""

    BY_LENGTH = "by length"
    """As many as the real samples alone become: `_get_feature_vector_attention_mask`, `modeling_wav2vec2.py`, 5.24."""
    BY_FIRST_SAMPLE = "by first sample"
    """Those whose first sample is real: `MoonshineEncoder`, `modeling_moonshine.py`, transformers 5.24."""


@dataclass(frozen=True)
class Convolutions:
    """Convolutions without padding over raw audio.

    Attributes:
        kernels: The kernel size of each, or the config field that has them.
        strides: The stride of each, or the config field that has them.
        masked_when: Conditions under which the model takes a mask of the samples that are padding.
        padding: Which frames are padding then.
    """

    kernels: str | Sequence[int]
    strides: str | Sequence[int]
    masked_when: Conditions = field(default_factory=dict)
    padding: Padding = Padding.BY_LENGTH

    def sizes(self, fields: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Return kernel size and stride of each, in order, under a config whose defaults are filled in."""
        kernels, strides = (fields[each] if isinstance(each, str) else each for each in (self.kernels, self.strides))
        return list(zip(kernels, strides, strict=True))
