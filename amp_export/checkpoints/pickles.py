"""Convert weights saved as torch pickles to safetensors, without running code in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.hashing import hash_source
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.weight_files import NEVER_READ, find_pickles
from amp_export.checkpoints.writing import write_checkpoint
from amp_export.documents import read_object
from amp_export.errors import ModelError

if TYPE_CHECKING:
    import torch


def hash_pickles(path: Path) -> str:
    """Return one SHA-256 over all files that a conversion reads: the config, the pickles and the companions."""
    digest = hashlib.sha256()
    for file in [path / "config.json", *find_pickles(path), *find_companions(path)]:
        digest.update(f"{file.relative_to(path).as_posix()}:{hash_source(file)}\n".encode())
    return digest.hexdigest()


def convert_pickles(path: Path, folder: Path) -> None:
    """Write a checkpoint directory with safetensors from one with pickles.

    Args:
        path: The directory with pickles.
        folder: The directory to create.

    Raises:
        ModelError: A pickle is damaged, holds anything but tensors, or would run code.
    """
    raw_config = read_object(path / "config.json", error=ModelError)
    write_checkpoint(folder, raw_config, _tensors(path), companions=find_companions(path), base=path)
    open_checkpoint(folder)


def _tensors(path: Path) -> Iterator[tuple[str, Any]]:
    import torch

    from amp_export.checkpoints.writing import to_numpy

    for file in find_pickles(path):
        for name, tensor in _load(file).items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise ModelError(
                    f"{file} holds {type(tensor).__name__} under {name!r}, but a weight is expected.\nIt may be a "
                    "training checkpoint; save the model's own weights with save_pretrained()."
                )
            if not name.endswith(NEVER_READ):
                yield name, to_numpy(tensor.detach())


def _load(file: Path) -> Mapping[Any, Any]:
    import pickle
    import zipfile

    import torch

    # only the newer format, a zip file, can be memory-mapped
    mapped = zipfile.is_zipfile(file)
    try:
        found: Mapping[Any, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file} contains more than tensors, possibly code to run, and was not loaded: "
            f"{_reason(error)}\nNo code in it was run. Use a safetensors version of the model from a source you trust."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelError(f"{file} is damaged: {_reason(error)}\nDownload or copy the checkpoint again.") from error
    if not isinstance(found, Mapping):
        raise ModelError(
            f"{file} holds {type(found).__name__}, but a dict of weights is expected.\nLoad the model with "
            "transformers and save_pretrained() it."
        )
    return found


def _reason(error: Exception) -> str:
    """Return the line of torch's long message that names the cause, or the first sentence: the rest is no advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    causes = (line for line in lines if line.startswith("WeightsUnpickler error"))
    return next(causes, lines[0].partition(". ")[0])
