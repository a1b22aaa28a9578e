"""What a checkpoint can be exported to: one folder per runtime, each with the same two verbs, `export` and `run`."""

from __future__ import annotations

import enum


class Precision(enum.StrEnum):
    """The dtype of an exported graph's weights, activations, keys and values."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def bytes(self) -> int:
        """Bytes of one value."""
        return 4 if self is Precision.FLOAT32 else 2
