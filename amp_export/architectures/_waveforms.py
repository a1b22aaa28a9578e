"""How models that take raw audio turn it into frames, which are their tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from amp_export.architectures._computation import Conditions


@dataclass(frozen=True)
class Convolutions:
    """Convolutions without padding over raw audio.

    Attributes:
        kernels: The config field with the kernel size of each.
        strides: The config field with the stride of each.
        masked_when: Conditions under which the model takes a mask of the samples that are padding.
    """

    kernels: str
    strides: str
    masked_when: Conditions = field(default_factory=dict)
