"""Copies a checkpoint's weights into the data file next to a graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.reading import Checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.onnx.builder.blocks import BlockFormat, BlockWeight, pack_fused, pack_standard, quantize
from amp_export.exporters.onnx.builder.layout import Content, StoredTensor
from amp_export.exporters.onnx.builder.rotary import ropes, rotary_caches
from amp_export.exporters.onnx.builder.transposing import transpose_in_stripes
from amp_export.hardware.threads import read_in_threads
from amp_export.options import Dtype

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Rounding = Callable[[str, "Array", BlockFormat, "np.dtype[Any]"], BlockWeight]
"""Quantizes a weight, given its name, its values [outputs, inputs], its format and the dtype of its scales."""


def write_weights(
    checkpoint: Checkpoint,
    stored: Sequence[StoredTensor],
    file: Path,
    *,
    dtype: Dtype,
    rounding: Rounding | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copy a checkpoint's weights into the data file: threads read, convert and write a tensor each.

    Args:
        checkpoint: Checkpoint to read the weights from.
        stored: Layout that `lay_out` returned for it.
        file: Data file to create.
        dtype: Dtype to write.
        rounding: How weights are quantized; by default each to its nearest code. Threads call it at once.
        on_progress: Called with the number of written layers and their total, after each.

    Raises:
        ModelError: A weight is NaN or infinite.
        RequestError: A weight is too large for `dtype`.
    """
    caches: dict[str, Array] = {}
    for rope in ropes(checkpoint.config).values():
        caches |= zip((rope.cos_cache, rope.sin_cache), rotary_caches(rope), strict=True)

    def read(source: str) -> Array:
        return caches[source] if source in caches else checkpoint.read(source)

    def report(layer: int) -> None:
        if on_progress is not None:
            on_progress(layer + 1, checkpoint.config.num_hidden_layers)

    write_tensors(read, stored, file, dtype=dtype, rounding=rounding, on_layer=report)


def write_tensors(
    read: Callable[[str], Array],
    stored: Sequence[StoredTensor],
    file: Path,
    *,
    dtype: Dtype,
    rounding: Rounding | None = None,
    on_layer: Callable[[int], None] | None = None,
) -> None:
    """Copy tensors into the data file: see `write_weights`.

    Args:
        read: Returns a tensor by the name of its source; threads call it at once.
        stored: Layout of the tensors.
        file: Data file to create.
        dtype: Dtype to write.
        rounding: How weights are quantized; by default each to its nearest code. Threads call it at once.
        on_layer: Called with the number of each layer after it is written.

    Raises:
        RequestError: A weight is too large for `dtype`.
    """
    by_source = [list(tensors) for _, tensors in itertools.groupby(stored, key=lambda tensor: tensor.source)]

    def write(tensors: Sequence[StoredTensor]) -> int | None:
        with file.open("r+b", buffering=0) as stream:
            for tensor, pieces in _convert(read(tensors[0].source), tensors, dtype, rounding or to_nearest):
                stream.seek(tensor.offset)
                for piece in pieces:
                    _write_all(stream, piece)
        return tensors[0].layer

    file.write_bytes(b"")
    for layer, _ in itertools.groupby(read_in_threads(write, by_source)):
        if layer is not None and on_layer is not None:
            on_layer(layer)


def _write_all(stream: FileIO, content: Array) -> None:
    """Write an array; a system may take less than all of it at once (Linux takes 2 GB)."""
    import numpy as np

    rest = content.reshape(-1).view(np.uint8).data
    while rest:
        rest = rest[stream.write(rest) :]


def to_nearest(_: str, weight_oi: Array, form: BlockFormat, scale_dtype: np.dtype[Any]) -> BlockWeight:
    """Quantize a weight, each value to its nearest code."""
    return quantize(weight_oi, form, scale_dtype=scale_dtype)


def taking(found: Mapping[str, BlockWeight]) -> Rounding:
    """Return a rounding that takes weights that are quantized already, and rounds others to the nearest."""

    def rounding(name: str, weight_oi: Array, form: BlockFormat, scale_dtype: np.dtype[Any]) -> BlockWeight:
        return found[name] if name in found else to_nearest(name, weight_oi, form, scale_dtype)

    return rounding


def _convert(
    array: Array, tensors: Iterable[StoredTensor], dtype: Dtype, rounding: Rounding
) -> Iterator[tuple[StoredTensor, Iterable[Array]]]:
    """Yield the content of all tensors that are made from one of the checkpoint's, in pieces to be written in turn."""
    quantized: BlockWeight | None = None
    for tensor in tensors:
        if tensor.form is None:
            yield tensor, _as_floats(array, tensor, dtype)
            continue
        if quantized is None:
            weight_oi = array.T if tensor.transposed else array
            quantized = rounding(tensor.source, weight_oi, tensor.form, numpy_dtype(dtype))
        yield tensor, [_as_codes(quantized, tensor, tensor.form, dtype)]


def _as_codes(quantized: BlockWeight, tensor: StoredTensor, form: BlockFormat, dtype: Dtype) -> Array:
    """Return the codes or the scales of a quantized weight as they are stored."""
    import numpy as np

    if tensor.content is Content.CODES_IO:
        return pack_standard(quantized.codes_oi, form)
    if tensor.content is Content.CODES_OB:
        return pack_fused(quantized.codes_oi, form)
    scales_ob = quantized.scales_ob
    _check_range(scales_ob, tensor, scales_ob, dtype)
    scales = scales_ob.T if tensor.content is Content.SCALES_BO else scales_ob
    return np.ascontiguousarray(scales, numpy_dtype(dtype))


def _as_floats(array: Array, tensor: StoredTensor, dtype: Dtype) -> Iterator[Array]:
    """Yield the values of a tensor in pieces, each of which the next may overwrite."""
    import numpy as np

    wanted = numpy_dtype(dtype)
    if tensor.from_one:
        array = array.astype(np.float32) + np.float32(1.0)
    pieces: Iterable[Array]
    if tensor.transposed:
        pieces = transpose_in_stripes(array, wanted)
    else:
        with np.errstate(over="ignore"):  # checked below
            pieces = [np.ascontiguousarray(array, wanted)]
    for piece in pieces:
        if array.dtype != wanted:
            _check_range(piece, tensor, array, dtype)
        yield piece


def _check_range(converted: Array, tensor: StoredTensor, array: Array, dtype: Dtype) -> None:
    """Refuse numbers that are infinite in float16.

    Raises:
        RequestError: There are some.
    """
    import numpy as np

    if dtype is Dtype.FLOAT16 and not np.isfinite(converted).all():
        raise RequestError(
            f"{tensor.source} holds values of up to {np.abs(array).max():.4g}, but float16 holds at most 65504.\n"
            "Export in bfloat16 or float32."
        )


def numpy_dtype(dtype: Dtype) -> np.dtype[Any]:
    """Return a dtype as numpy's."""
    import numpy as np

    if dtype is Dtype.BFLOAT16:
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(dtype.value)
