"""The data file beside a graph: where each tensor lies in it, and the copying of a checkpoint's weights into it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import DecoderConfig, LayerWidths, tensor_shapes
from amp_export.checkpoints import Checkpoint
from amp_export.errors import RequestError
from amp_export.exporters import Precision
from amp_export.exporters.onnx.rotary import rotary_caches

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

COS_CACHE = "rotary.cos_cache"
SIN_CACHE = "rotary.sin_cache"

PAGE_BYTES = 4096
"""Offsets are multiples of it, so that a runtime can map each tensor: `TensorProto.external_data`, onnx.proto."""

CACHE_LINE_BYTES = 64
"""Alignment of tensors smaller than a page, which are not worth a page of padding."""

_STRIP_ROWS = 128


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the data file.

    Attributes:
        name: Its name in the checkpoint, or `COS_CACHE` or `SIN_CACHE`.
        shape: Its shape as stored.
        transposed: Whether the checkpoint's rows are its columns.
        layer: The decoder layer it belongs to, or None.
        offset: Its first byte.
        nbytes: How many bytes it takes.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool
    layer: int | None
    offset: int
    nbytes: int


def lay_out(config: DecoderConfig, widths: Sequence[LayerWidths], precision: Precision) -> tuple[StoredTensor, ...]:
    """Says where each tensor of a decoder lies in the data file, in the order of the computation.

    Linear layers are stored as [in, out], which is how MatMul takes them. The embedding and the head stay as they are
    in the checkpoint, [vocab_size, hidden_size], so that tied ones are stored once.
    """
    architecture = config.architecture
    cache_shape = (config.max_position_embeddings, config.head_dim // 2)
    shapes = {COS_CACHE: cache_shape, SIN_CACHE: cache_shape, **tensor_shapes(config, widths)}

    stored: list[StoredTensor] = []
    end = 0
    for name, shape in shapes.items():
        layer = _layer_of(name, architecture.layers)
        transposed = layer is not None and len(shape) == 2
        nbytes = math.prod(shape) * precision.bytes
        offset = aligned_offset(end, nbytes)
        stored.append(StoredTensor(name, shape[::-1] if transposed else shape, transposed, layer, offset, nbytes))
        end = offset + nbytes
    return tuple(stored)


def aligned_offset(end: int, nbytes: int) -> int:
    """Where a tensor of that size starts in a data file that is filled up to `end`."""
    alignment = PAGE_BYTES if nbytes >= PAGE_BYTES else CACHE_LINE_BYTES
    return math.ceil(end / alignment) * alignment


def write_weights(
    checkpoint: Checkpoint,
    stored: Sequence[StoredTensor],
    file: Path,
    *,
    precision: Precision,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copies a checkpoint's weights into the data file, holding one tensor in memory at a time.

    Args:
        checkpoint: Where the weights come from.
        stored: What `lay_out` returned for it.
        file: The data file; it is made.
        precision: The dtype to write.
        on_progress: Called with the number of layers done and of all, after each layer.

    Raises:
        ModelError: A weight is NaN or infinite.
        RequestError: A weight is too large for `precision`.
    """
    caches = dict(zip((COS_CACHE, SIN_CACHE), rotary_caches(checkpoint.config), strict=True))
    with file.open("wb") as stream:
        for layer, tensors in itertools.groupby(stored, key=lambda tensor: tensor.layer):
            for tensor in tensors:
                array = caches.pop(tensor.name) if tensor.name in caches else checkpoint.read(tensor.name)
                stream.seek(tensor.offset)
                stream.write(_as_bytes(_convert(array, tensor, precision)))
            if layer is not None and on_progress is not None:
                on_progress(layer + 1, checkpoint.config.num_hidden_layers)


def _layer_of(name: str, layers: str) -> int | None:
    return int(name.removeprefix(f"{layers}.").partition(".")[0]) if name.startswith(f"{layers}.") else None


def _convert(array: Array, tensor: StoredTensor, precision: Precision) -> Array:
    import numpy as np

    dtype = _numpy_dtype(precision)
    if array.dtype == dtype and not tensor.transposed:
        return np.ascontiguousarray(array)
    converted = np.empty(tensor.shape, dtype)
    target = converted.T if tensor.transposed else converted
    with np.errstate(over="ignore"):  # looked for below
        # in strips of rows: one transposing copy of the whole misses the cache at every element
        for start in range(0, len(array), _STRIP_ROWS):
            target[start : start + _STRIP_ROWS] = array[start : start + _STRIP_ROWS]
    if precision is Precision.FLOAT16 and not np.isfinite(converted).all():
        raise RequestError(
            f"{tensor.name} holds values of up to {np.abs(array).max():.4g}, and float16 ends at 65504.\n"
            "Export in bfloat16 or float32."
        )
    return converted


def _numpy_dtype(precision: Precision) -> np.dtype[Any]:
    import numpy as np

    if precision is Precision.BFLOAT16:
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(precision.value)


def _as_bytes(array: Array) -> memoryview:
    import numpy as np

    return array.reshape(-1).view(np.uint8).data
