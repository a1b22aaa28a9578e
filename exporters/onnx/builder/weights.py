"""The data file beside a graph: where each tensor lies in it, and the copying of a checkpoint's weights into it."""

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
        name: Its name in the checkpoint, or that of a rotary cache.
        shape: Its shape as stored.
        transposed: Whether the checkpoint's rows are its columns.
        from_one: Whether the checkpoint has what must be added to one.
        layer: The decoder layer it belongs to, or None.
        offset: Its first byte.
        nbytes: How many bytes it takes.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool
    from_one: bool
    layer: int | None
    offset: int
    nbytes: int


def lay_out(config: ModelConfig, widths: Sequence[LayerWidths], dtype: Dtype) -> tuple[StoredTensor, ...]:
    """Say where each tensor of a decoder lies in the data file, in the order of the computation.

    Linear layers are stored as [in, out], which is how MatMul takes them. The embedding and the head stay as they are
    in the checkpoint, [vocab_size, hidden_size], so that tied ones are stored once. Norms whose weight counts from one
    are stored with the one added, rounded once.
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
    """Return the names, below a layer, of the weights that are [out, in] in the checkpoint."""
    blocks = (config.architecture.attention, config.architecture.mlp)
    projections = [projection for block in blocks for projection in (*block.inputs, block.output)]
    return {f"{projection.name}.weight" for projection in projections if not projection.transposed}


def _weights_from_one(config: ModelConfig) -> set[str]:
    """Return the names, below a layer where they are of one, of the norms' weights that count from one."""
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
        checkpoint: Where the weights come from.
        stored: What `lay_out` returned for it.
        file: The data file; it is made.
        dtype: The dtype to write.
        on_progress: Called with the number of layers done and of all, after each layer.

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
    """Return the layer that a tensor belongs to, and its name below it; None and the whole name where it is of none."""
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
    with np.errstate(over="ignore"):  # looked for below
        # in strips of rows: one transposing copy of the whole misses the cache at every element
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
