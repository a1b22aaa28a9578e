"""The types that weights are stored as in a GGUF file, and their encoding by the library gguf, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, RequestError
from amp_export.options import Dtype, WeightFormat

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType

    Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 32
"""Weights of a row that share a scale in Q8_0, Q4_0 and Q4_1: `GGML_QUANT_SIZES`, constants.py of gguf 0.19. Its K
types have blocks of 256, and `quantize` of its quants.py has none of them."""

CHUNK = 1 << 20
"""Weights that are encoded at a time: the library works in float32, with copies."""


@dataclass(frozen=True)
class Kind:
    """A type of weights.

    Attributes:
        name: Its name in ggml.
        file_type: Value of `general.file_type`: `llama_ftype` in include/llama.h.
        weights: The option that asks for it; None for floating-point numbers.
    """

    name: str
    file_type: int
    weights: WeightFormat | None = None

    @property
    def is_quantized(self) -> bool:
        """Whether weights share scales."""
        return self.weights is not None

    @property
    def ggml(self) -> GGMLQuantizationType:
        """The type in the library gguf."""
        from gguf import GGMLQuantizationType

        return GGMLQuantizationType[self.name]


F32 = Kind("F32", 0)
Q8_0 = Kind("Q8_0", 7, WeightFormat.Q8_0)
FLOATS = {Dtype.FLOAT32: F32, Dtype.FLOAT16: Kind("F16", 1), Dtype.BFLOAT16: Kind("BF16", 32)}
QUANTIZED = {
    WeightFormat.Q8_0: Q8_0,
    WeightFormat.Q4_0: Kind("Q4_0", 2, WeightFormat.Q4_0),
    WeightFormat.Q4_1: Kind("Q4_1", 3, WeightFormat.Q4_1),
}


def find_kind(file_type: int) -> Kind | None:
    """Return the kind with this `general.file_type`, or None."""
    return next((kind for kind in (*FLOATS.values(), *QUANTIZED.values()) if kind.file_type == file_type), None)


def encoded_bytes(shape: Sequence[int], kind: Kind) -> int:
    """Return the size of a tensor in a file."""
    from gguf.constants import GGML_QUANT_SIZES

    block, nbytes = GGML_QUANT_SIZES[kind.ggml]
    return math.prod(shape) // block * nbytes


def check_rows(name: str, shape: Sequence[int], kind: Kind) -> None:
    """Refuse a tensor whose rows are not whole blocks.

    Raises:
        RequestError: They are not.
    """
    if kind.is_quantized and shape[-1] % BLOCK:
        raise RequestError(
            f"{kind.name} stores blocks of {BLOCK} weights of a row, and the rows of {name} have {shape[-1]}.\n"
            f"Prune with --snap {BLOCK} if these are neurons, so that layers keep whole blocks; otherwise leave "
            "--weights out, and give --dtype float16."
        )


def encode(array: Array, kind: Kind) -> Array:
    """Return the bytes of a tensor in a file, uint8 with rows of one length.

    Args:
        array: Floating-point weights, of at least one axis.
        kind: The type to store them as.

    Raises:
        ModelError: A weight is too large for float16.
    """
    import numpy as np
    from gguf.quants import quantize

    rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1])
    if kind == F32 and rows.dtype == np.float32:
        return rows.view(np.uint8)
    out = np.empty((len(rows), encoded_bytes(rows.shape, kind) // len(rows)), np.uint8)
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        wide = rows[start : start + step].astype(np.float32)
        with np.errstate(over="ignore"):
            part = quantize(wide, kind.ggml)
        if kind.name == "F16" and not np.isfinite(part).all():
            raise ModelError(
                f"A weight of {np.abs(wide).max():g} does not fit float16, whose largest number is 65504.\nGive "
                "--dtype bfloat16 or float32."
            )
        out[start : start + step] = np.ascontiguousarray(part).view(np.uint8).reshape(len(wide), -1)
    return out
