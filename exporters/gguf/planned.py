"""A tensor that a GGUF file will have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


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
        """Whether it stays float32: norms, biases, routers and convolutions, which llama.cpp computes in floats."""
        return len(self.shape) == 1 or any(part in self.name for part in ("ffn_gate_inp", "shortconv.conv"))
