"""Write checkpoints, one tensor at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.older_versions import write_config
from amp_export.checkpoints.source_files import copy_files
from amp_export.checkpoints.weight_files import INDEX, SINGLE
from amp_export.errors import system_error

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]


METADATA = {"format": "pt"}
"""Metadata without which transformers refuses a file."""

SHARD_BYTES = 1 << 30
"""Maximum size of a shard, and thus of the weights in memory while writing; shards are hashed side by side."""


def write_checkpoint(
    folder: Path,
    raw_config: Mapping[str, Any],
    tensors: Iterable[tuple[str, Array]],
    *,
    companions: Iterable[Path] = (),
    base: Path | None = None,
    held: Mapping[str, Path] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint that plain transformers loads, holding at most one shard of it in memory.

    Args:
        folder: The directory to create.
        raw_config: Content of config.json.
        tensors: Names and arrays, consumed one by one.
        companions: Files to copy beside the weights.
        base: Directory of those companions that keep their folders.
        held: Files that hold tensors already, by the tensors' names; each becomes a shard without being written again,
            and must hold no others.
        shard_bytes: Maximum size of a shard with more than one tensor.
    """
    folder.mkdir(parents=True)
    held = held or {}
    shards: dict[Path, list[str]] = {}
    batch: dict[str, Array] = {}
    size = total = 0

    def close_shard() -> None:
        file = folder / f"shard-{len(shards)}"
        save_tensors(file, batch, metadata=METADATA)
        shards[file] = list(batch)
        batch.clear()

    for name, array in tensors:
        total += array.nbytes
        if name in held:
            shards.setdefault(held[name], []).append(name)
            continue
        if batch and size + array.nbytes > shard_bytes:
            close_shard()
            size = 0
        batch[name] = array
        size += array.nbytes
    if batch or not shards:
        close_shard()
    _name_shards(folder, shards, total)
    write_config(folder, raw_config)
    copy_files(companions, folder, base=base)


def save_tensors(file: Path, arrays: dict[str, Array], *, metadata: dict[str, str]) -> None:
    """Write tensors like `safetensors.numpy.save_file`, but with the usual file permissions and `OSError`.

    Raises:
        OSError: The file could not be written.
        SafetensorError: The library failed for another reason.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # creating the file first applies the umask; the library would make it readable for the owner only
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(arrays, file, metadata=metadata)
    except SafetensorError as error:
        if (number := system_error(error)) is not None:
            raise OSError(number, os.strerror(number), str(file)) from error
        raise
    file.chmod(mode)


def _name_shards(folder: Path, shards: Mapping[Path, list[str]], total_size: int) -> None:
    if len(shards) == 1:
        _move(next(iter(shards)), folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, (file, names) in enumerate(shards.items(), start=1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _move(file, folder / final)
        weight_map.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _move(file: Path, final: Path) -> None:
    """Give a file another name; one that is held elsewhere keeps its own, under which it may be mapped."""
    if file.parent == final.parent:
        file.rename(final)
        return
    try:
        final.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, final)


def to_numpy(tensor: torch.Tensor) -> Any:
    """Return a tensor as an array that shares its memory if it is contiguous; bfloat16 becomes `ml_dtypes.bfloat16`."""
    import ml_dtypes
    import torch

    tensor = tensor.contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
