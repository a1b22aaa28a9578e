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


class Opset(enum.StrEnum):
    """The version of ONNX operators that a graph is made of."""

    OPSET_20 = "20"
    """For TensorRT before 10.15 and ONNX Runtime before 1.23."""
    OPSET_23 = "23"
    """The first with Attention, RotaryEmbedding and RMSNormalization."""

    @property
    def version(self) -> int:
        """As a number."""
        return int(self.value)

    @property
    def ir_version(self) -> int:
        """The version of the file format that came with it: `VERSION_TABLE`, helper.py, onnx 1.23."""
        return {"20": 9, "23": 11}[self.value]
