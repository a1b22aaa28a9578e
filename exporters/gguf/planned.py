"""A tensor that a GGUF file will have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_EXACT = ("ffn_gate_inp", "shortconv.conv", "ssm_conv1d", "ssm_a", "ssm_d", "ssm_norm")
"""Parts of the names of tensors with two axes that llama.cpp computes with in float32."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the file.

    Attributes:
        name: Its name there.
        shape: Its shape, outputs first.
        read: Returns its values, read from the checkpoint.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Array]

    @property
    def is_exact(self) -> bool:
        """Whether it stays float32: norms, biases, routers, and what mixers do not multiply as matrices."""
        return len(self.shape) == 1 or any(part in self.name for part in _EXACT)
