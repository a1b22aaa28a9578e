"""Writes a checkpoint as a GGUF file, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.older_versions import write_config
from amp_export.checkpoints.source_files import copy_files
from amp_export.exporters.files import MODEL, file_name
from amp_export.exporters.gguf.blocks import F32, FLOATS, Q8_0, QUANTIZED, Kind, check_rows, encode, encoded_bytes
from amp_export.exporters.gguf.keys import readable_context, write_keys, write_kind
from amp_export.exporters.gguf.routes import Route, choose_route
from amp_export.exporters.gguf.tensors import EMBEDDING, HEAD, planned_tensors
from amp_export.exporters.gguf.tokenizer import write_tokenizer
from amp_export.extras import require_extra
from amp_export.options import Dtype, Format, WeightFormat

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.gguf.planned import PlannedTensor


@dataclass(frozen=True)
class GgufExport:
    """A written file.

    Attributes:
        file: The file.
        architecture: The architecture of llama.cpp that it is written as.
        notes: What its user has to know.
        bytes_on_disk: Size of all files in its folder.
    """

    file: Path
    architecture: str
    notes: tuple[str, ...]
    bytes_on_disk: int


def require_writer() -> None:
    """Import the library gguf, so that it fails early if it is not installed.

    Raises:
        MissingExtraError: It is not installed.
    """
    require_extra("gguf", "gguf", needed_for="Writing a GGUF file")


def choose_kind(dtype: Dtype, weights: WeightFormat | None) -> Kind:
    """Return the type that weights are stored as."""
    return FLOATS[dtype] if weights is None else QUANTIZED[weights]


def check(checkpoint: Checkpoint, kind: Kind) -> Route:
    """Return the route of a checkpoint, and check that it can be written, before anything is.

    Raises:
        UnsupportedModelError: llama.cpp has no architecture for it.
        RequestError: Rows of a tensor are not whole blocks.
    """
    route = choose_route(checkpoint.config, checkpoint.widths)
    for tensor in planned_tensors(checkpoint, route) if kind.is_quantized else ():
        check_rows(tensor.name, tensor.shape, _kind_of(tensor, kind))
    return route


def export(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    dtype: Dtype = Dtype.FLOAT32,
    weights: WeightFormat | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> GgufExport:
    """Write a checkpoint as a GGUF file, with config and tokenizer beside it.

    Args:
        checkpoint: The checkpoint.
        folder: Folder to create.
        dtype: Dtype of weights that are not quantized.
        weights: Blocks of integers to store weights as; None for `dtype`.
        on_progress: Called with the number of written tensors and their total, after each.

    Raises:
        MissingExtraError: The library gguf is not installed.
        AmpExportError: See `check` and `tokenizer.write_tokenizer`.
    """
    require_writer()
    from gguf import GGUFWriter

    kind = choose_kind(dtype, weights)
    route = check(checkpoint, kind)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / file_name(MODEL, Format.GGUF)
    writer = GGUFWriter(file, route.name)
    try:
        write_keys(writer, checkpoint.config, checkpoint.widths, route)
        write_kind(writer, kind)
        tokenizer_notes = write_tokenizer(writer, checkpoint.path, checkpoint.config.vocab_size)
        _write_tensors(writer, list(planned_tensors(checkpoint, route)), kind, on_progress)
    finally:
        writer.close()
    write_config(folder, checkpoint.raw_config)
    copy_files(checkpoint.companions(), folder, base=checkpoint.path)
    notes = (*_context_notes(checkpoint, route), *tokenizer_notes)
    return GgufExport(file, route.name, notes, directory_size(folder))


def _write_tensors(
    writer: Any, tensors: Sequence[PlannedTensor], kind: Kind, on_progress: Callable[[int, int], None] | None
) -> None:
    import numpy as np

    for tensor in tensors:
        own = _kind_of(tensor, kind)
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), encoded_bytes(tensor.shape, own), raw_dtype=own.ggml
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, tensor in enumerate(tensors, start=1):
        writer.write_tensor_data(encode(tensor.read(), _kind_of(tensor, kind)))
        if on_progress is not None:
            on_progress(done, len(tensors))


def _kind_of(tensor: PlannedTensor, kind: Kind) -> Kind:
    """Return the type of a tensor; embedding and LM head keep 8 bits where others have 4."""
    if tensor.is_exact:
        return F32
    return Q8_0 if kind.is_quantized and tensor.name in (EMBEDDING, HEAD) else kind


def _context_notes(checkpoint: Checkpoint, route: Route) -> tuple[str, ...]:
    readable, context = readable_context(checkpoint.config, route), checkpoint.config.context
    if readable == context:
        return ()
    return (
        f"The file says that texts have up to {readable:,} tokens: the model's sliding window, which llama.cpp's "
        f"{route.name} does not know. Beyond it, up to {context:,}, it would compute something else.",
    )
