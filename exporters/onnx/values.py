"""Conversion between numpy arrays and values of ONNX Runtime, in all dtypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amp_export.exporters.models.session import widen_bfloat16
from amp_export.options import Dtype

if TYPE_CHECKING:
    from onnxruntime import OrtValue

    from amp_export.exporters.models.session import Floats

_BFLOAT16 = 16
"""`TensorProto.BFLOAT16`."""


def to_value(array: Any, dtype: Dtype | None = None) -> OrtValue:
    """Convert an array to a value of ONNX Runtime.

    Args:
        array: Array of any dtype.
        dtype: Dtype to round floating-point numbers to; None does not convert.
    """
    from onnxruntime import OrtValue

    if dtype is not Dtype.BFLOAT16:
        return OrtValue.ortvalue_from_numpy(array if dtype is None else array.astype(dtype.value))
    import ml_dtypes

    # numpy has no bfloat16, so its bits are passed
    bits = array.astype(ml_dtypes.bfloat16).view("uint16")
    return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)


def empty_value(shape: Sequence[int], dtype: Dtype, device: str = "cpu") -> OrtValue:
    """Return a value on a device whose content is not defined."""
    import numpy as np
    from onnxruntime import OrtValue

    kind = _BFLOAT16 if dtype is Dtype.BFLOAT16 else np.dtype(dtype.value)
    return OrtValue.ortvalue_from_shape_and_type(list(shape), kind, device)


def zero_value(shape: Sequence[int], dtype: Dtype, device: str = "cpu") -> OrtValue:
    """Return a value of zeros on a device."""
    import numpy as np

    value = empty_value(shape, dtype, device)
    # numpy has no bfloat16; its zero has the same bits
    value.update_inplace(np.zeros(shape, np.uint16 if dtype is Dtype.BFLOAT16 else dtype.value))
    return value


def to_float32(value: OrtValue) -> Floats:
    """Convert a floating-point value to a float32 array."""
    import numpy as np

    if value.data_type() != "tensor(bfloat16)":
        floats: Floats = value.numpy().astype(np.float32, copy=False)
        return floats
    if value.device_name() != "cpu":
        on_device, value = value, empty_value(value.shape(), Dtype.BFLOAT16)
        value.update_inplace(on_device)
    # onnxruntime 1.32 does not convert bfloat16 to numpy
    count = int(np.prod(value.shape()))
    halves = np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(value.data_ptr()))
    return widen_bfloat16(halves).reshape(value.shape())


def is_float(value: OrtValue) -> bool:
    """Return whether a value has a floating-point dtype that can be exported."""
    return value.data_type() in ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
