"""The data file next to a graph: its layout, and the copying of a checkpoint's weights into it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import LayerWidths, ModelConfig, NormKind, tensor_shapes
from amp_export.checkpoints.reading import Checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.files import aligned_offset
from amp_export.exporters.onnx.builder.rotary import ropes, rotary_caches
from amp_export.options import Dtype

if TYPE_CHECKING:
    import numpy as np

    from amp_export.exporters.onnx.builder.rotary import Rope

    Array = np.ndarray[Any, np.dtype[Any]]


_STRIP_ROWS = 128


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the data file.

    Attributes:
        name: Its name in the checkpoint, or the name of a rotary cache.
        shape: Its shape as stored.
        transposed: Whether it is the transpose of the checkpoint's tensor.
        from_one: Whether one must be added to the checkpoint's values.
        layer: The decoder layer it belongs to, or None.
        offset: Offset of its first byte.
        nbytes: Its size in bytes.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool
    from_one: bool
    layer: int | None
    offset: int
    nbytes: int


def lay_out(config: ModelConfig, widths: Sequence[LayerWidths], dtype: Dtype) -> tuple[StoredTensor, ...]:
    """Return the layout of a decoder's tensors in the data file.

    Linear layers are stored as [in, out], as MatMul takes them. The embedding and the LM head stay as in the
    checkpoint, [vocab_size, hidden_size], so that tied ones are stored once. Norm weights that count from one are
    stored with the one added, rounded once.
    """
    shapes = {name: shape for rope in ropes(config).values() for name, shape in _cache_shapes(rope).items()}
    layers = config.architecture.layers
    stored: list[StoredTensor] = []
    end = 0
    for name, shape in {**shapes, **tensor_shapes(config, widths)}.items():
        layer, below = _split_name(name, layers)
        transposed = layer is not None and below in _linear_weights(config)
        nbytes = math.prod(shape) * dtype.bytes
        offset = aligned_offset(end, nbytes)
        from_one = below in _weights_from_one(config)
        stored.append(
            StoredTensor(name, shape[::-1] if transposed else shape, transposed, from_one, layer, offset, nbytes)
        )
        end = offset + nbytes
    return tuple(stored)


def _cache_shapes(rope: Rope) -> dict[str, tuple[int, ...]]:
    shape = (rope.rows, rope.dimensions // 2)
    return {rope.cos_cache: shape, rope.sin_cache: shape}


def _linear_weights(config: ModelConfig) -> set[str]:
    """Return the names, relative to a layer, of the weights that are [out, in] in the checkpoint."""
    blocks = (config.architecture.attention, config.architecture.mlp)
    projections = [projection for block in blocks for projection in (*block.inputs, block.output)]
    return {f"{projection.name}.weight" for projection in projections if not projection.transposed}


def _weights_from_one(config: ModelConfig) -> set[str]:
    """Return the names of norm weights that count from one; those in a layer are relative to it."""
    computation = config.architecture.computation
    if computation is None or computation.norm is not NormKind.RMS_FROM_ONE:
        return set()
    tensors = (*config.architecture.norms, *config.architecture.attention.tensors)
    return {*(tensor.name for tensor in tensors), f"{computation.final_norm}.weight"}


def write_weights(
    checkpoint: Checkpoint,
    stored: Sequence[StoredTensor],
    file: Path,
    *,
    dtype: Dtype,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copy a checkpoint's weights into the data file, holding one tensor in memory at a time.

    Args:
        checkpoint: Checkpoint to read the weights from.
        stored: Layout that `lay_out` returned for it.
        file: Data file to create.
        dtype: Dtype to write.
        on_progress: Called with the number of written layers and their total, after each.

    Raises:
        ModelError: A weight is NaN or infinite.
        RequestError: A weight is too large for `dtype`.
    """
    caches: dict[str, Array] = {}
    for rope in ropes(checkpoint.config).values():
        caches |= zip((rope.cos_cache, rope.sin_cache), rotary_caches(rope), strict=True)
    with file.open("wb") as stream:
        for layer, tensors in itertools.groupby(stored, key=lambda tensor: tensor.layer):
            for tensor in tensors:
                array = caches.pop(tensor.name) if tensor.name in caches else checkpoint.read(tensor.name)
                stream.seek(tensor.offset)
                stream.write(_as_bytes(_convert(array, tensor, dtype)))
            if layer is not None and on_progress is not None:
                on_progress(layer + 1, checkpoint.config.num_hidden_layers)


def _split_name(name: str, layers: str) -> tuple[int | None, str]:
    """Return the layer of a tensor and its name relative to the layer; None and the full name outside of layers."""
    if not name.startswith(f"{layers}."):
        return None, name
    number, _, below = name.removeprefix(f"{layers}.").partition(".")
    return int(number), below


def _convert(array: Array, tensor: StoredTensor, dtype: Dtype) -> Array:
    import numpy as np

    numpy_dtype = _numpy_dtype(dtype)
    if tensor.from_one:
        array = array.astype(np.float32) + np.float32(1.0)
    if array.dtype == numpy_dtype and not tensor.transposed:
        return np.ascontiguousarray(array)
    converted = np.empty(tensor.shape, numpy_dtype)
    target = converted.T if tensor.transposed else converted
    with np.errstate(over="ignore"):  # checked below
        # in strips of rows: a single transposing copy misses the cache at every element
        for start in range(0, len(array), _STRIP_ROWS):
            target[start : start + _STRIP_ROWS] = array[start : start + _STRIP_ROWS]
    if dtype is Dtype.FLOAT16 and not np.isfinite(converted).all():
        raise RequestError(
            f"{tensor.name} holds values of up to {np.abs(array).max():.4g}, but float16 holds at most 65504.\n"
            "Export in bfloat16 or float32."
        )
    return converted


def _numpy_dtype(dtype: Dtype) -> np.dtype[Any]:
    import numpy as np

    if dtype is Dtype.BFLOAT16:
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(dtype.value)


def _as_bytes(array: Array) -> memoryview:
    import numpy as np

    return array.reshape(-1).view(np.uint8).data
