"""Weights as codes of 4 or 8 bits, with a scale for each block of a row: rounding, and the layouts of operators.

A weight is about its code times the scale of its block. Codes are integers or floats, symmetric and without zero
points, as TensorRT takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.exporters.onnx.builder.transposing import transpose

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Codes = np.ndarray[Any, np.dtype[Any]]
    Floats = np.ndarray[Any, np.dtype[np.float32]]
    Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_STRIP_ROWS = 256

LARGEST_FLOAT = 448.0
"""The largest number of float8_e4m3fn. Source: "Float stored in 8 bits", onnx.ai/onnx/technical/float8.html."""


@dataclass(frozen=True)
class BlockFormat:
    """A format of weights.

    Attributes:
        bits: Bits of a code, 4 or 8.
        block_size: Number of weights of a row that share a scale.
        is_float: Whether codes are floats, float8_e4m3fn.
    """

    bits: int
    block_size: int
    is_float: bool = False

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Dtype of codes in memory."""
        import numpy as np

        if not self.is_float:
            return np.dtype(np.int8)
        import ml_dtypes

        float8: np.dtype[Any] = np.dtype(ml_dtypes.float8_e4m3fn)
        return float8

    @property
    def zero(self) -> int:
        """The unsigned code that stands for 0; the lowest signed code is the negative of it."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True)
class BlockWeight:
    """A quantized weight.

    Attributes:
        codes_oi: Codes, int8 or float8_e4m3fn [outputs, inputs].
        scales_ob: Scales, float32 [outputs, blocks].
    """

    codes_oi: Codes
    scales_ob: Floats

    def dequantized(self) -> Floats:
        """Return the weight that operators compute with, float32 [outputs, inputs]."""
        import numpy as np

        outputs, blocks = self.scales_ob.shape
        found = self.codes_oi.reshape(outputs, blocks, -1).astype(np.float32)
        found *= self.scales_ob[..., None]
        return found.reshape(outputs, -1)


def quantize(weight_oi: Array, form: BlockFormat, *, scale_dtype: np.dtype[Any]) -> BlockWeight:
    """Round a weight to the nearest codes.

    Args:
        weight_oi: The weight, [outputs, inputs]; blocks divide the inputs.
        form: The format.
        scale_dtype: Dtype that scales are stored in.
    """
    import numpy as np

    outputs, inputs = weight_oi.shape
    blocks = inputs // form.block_size
    codes_oi = np.empty((outputs, inputs), form.code_dtype)
    scales_ob = np.empty((outputs, blocks), np.float32)
    # in strips of rows, which stay in the processor's cache
    for start in range(0, outputs, _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        values_obk = weight_oi[rows].astype(np.float32).reshape(-1, blocks, form.block_size)
        scales_ob[rows] = choose_scales(values_obk, form, scale_dtype=scale_dtype)
        codes_oi[rows] = round_to(values_obk, scales_ob[rows], form).reshape(-1, inputs)
    return BlockWeight(codes_oi, scales_ob)


def choose_scales(values_obk: Floats, form: BlockFormat, *, scale_dtype: np.dtype[Any]) -> Floats:
    """Return scales with which the value of the largest magnitude in a block is an outermost code.

    Of integers, there is one more below zero than above, and the sign of a scale is free. Source:
    `MlasQuantizeBlockwise` of ONNX Runtime. Smaller scales, which clip that value, have smaller squared errors and made
    SmolLM2-135M worse: a KL divergence of 0.30 nats on WikiText-2 with the best of six in each block, 0.27 with these.

    Args:
        values_obk: Values by block, [outputs, blocks, block size].
        form: The format.
        scale_dtype: Dtype that scales are stored in.

    Returns:
        Scales, float32 [outputs, blocks], rounded to `scale_dtype`.
    """
    import numpy as np

    places = np.abs(values_obk).argmax(axis=-1, keepdims=True)
    extremes_ob = np.take_along_axis(values_obk, places, axis=-1)[..., 0]
    quotients_ob = np.abs(extremes_ob) / np.float32(LARGEST_FLOAT) if form.is_float else extremes_ob / -form.zero
    with np.errstate(over="ignore"):  # what the dtype cannot hold is refused where the scales are written
        scales_ob: Floats = quotients_ob.astype(scale_dtype).astype(np.float32)
    return scales_ob


def round_to(values_obk: Floats, scales_ob: Floats, form: BlockFormat) -> Floats:
    """Return the codes of values for given scales, [outputs, blocks, block size]; 0 where a scale is 0."""
    import numpy as np

    inverses_ob = np.divide(1.0, scales_ob, out=np.zeros_like(scales_ob), where=scales_ob != 0)
    codes_obk: Floats = values_obk * inverses_ob[..., None]
    if form.is_float:
        # clipped first: what is too large has no code but NaN
        np.clip(codes_obk, -LARGEST_FLOAT, LARGEST_FLOAT, out=codes_obk)
        return codes_obk.astype(form.code_dtype).astype(np.float32)
    np.rint(codes_obk, out=codes_obk)
    return np.clip(codes_obk, -form.zero, form.zero - 1, out=codes_obk)


def pack_standard(codes_oi: Codes, form: BlockFormat) -> Bytes:
    """Return the codes as the bytes of an INT4, INT8 or FLOAT8E4M3FN tensor [inputs, outputs].

    Source: onnx.proto, `int32_data`: of two 4-bit values in a byte, the first has the low bits.
    """
    import numpy as np

    flat: Bytes = transpose(codes_oi).reshape(-1).view(np.uint8)
    return flat if form.bits == 8 else _join(flat)


def unpack_standard(packed: Bytes, form: BlockFormat, *, inputs: int) -> Codes:
    """Return the codes that `pack_standard` packed, [outputs, inputs]."""
    flat = packed.view(form.code_dtype) if form.bits == 8 else _signed(_part(packed))
    return flat.reshape(inputs, -1).T


def pack_fused(codes_oi: Codes, form: BlockFormat) -> Bytes:
    """Return the codes as the bytes of the input B of MatMulNBits, uint8 [outputs, blocks, bytes of a block].

    Source: com.microsoft.MatMulNBits in ContribOperators.md of ONNX Runtime: the zero point is half of the range.
    """
    import numpy as np

    unsigned: Bytes = (codes_oi.astype(np.int16) + form.zero).astype(np.uint8).reshape(-1)
    return unsigned if form.bits == 8 else _join(unsigned)


def unpack_fused(packed: Bytes, form: BlockFormat, *, outputs: int) -> Codes:
    """Return the codes that `pack_fused` packed, [outputs, inputs]."""
    import numpy as np

    unsigned = packed if form.bits == 8 else _part(packed)
    return (unsigned.astype(np.int16) - form.zero).astype(np.int8).reshape(outputs, -1)


def _join(flat: Bytes) -> Bytes:
    """Put two values of 4 bits into each byte, the first one low."""
    import numpy as np

    low, high = (flat & 0xF).reshape(-1, 2).T
    joined: Bytes = np.bitwise_or(low, high << 4, dtype=np.uint8)
    return joined


def _part(packed: Bytes) -> Bytes:
    """Return the values of 4 bits of each byte, the low one first."""
    import numpy as np

    return np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(-1)


def _signed(flat: Bytes) -> Codes:
    """Return values of 4 bits in two's complement as int8."""
    import numpy as np

    return ((flat.astype(np.int8) ^ 8) - 8).astype(np.int8)
