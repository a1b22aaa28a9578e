"""The weight files of a checkpoint directory and their headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amp_export.errors import ModelError, UnsupportedModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLE = "pytorch_model.bin"

NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "scheduler.bin", "random_states_0.bin"})
"""Pickles beside the weights that hold no weights."""

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Dtype names in configs, by their names in safetensors headers."""

QUANTIZED_DTYPES = {
    "I8": "bitsandbytes (LLM.int8) or compressed-tensors",
    "U8": "bitsandbytes (4 bits) or mxfp4",
    "I32": "GPTQ or AWQ",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8",
    "F8_E8M0": "mxfp4 or mxfp8",
    "F4": "nvfp4 or mxfp4",
}
"""Quantization methods that use a dtype, by its name in safetensors headers."""

NEVER_READ = ("position_ids",)
"""Suffixes of tensor names in old encoder checkpoints: constant indices that are never read."""


@dataclass(frozen=True)
class TensorInfo:
    """Location, dtype and shape of a tensor, from a safetensors header."""

    file: Path
    stored_name: str
    dtype: str
    shape: tuple[int, ...]


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint directory.

    Raises:
        ModelError: There are no safetensors, or some files are missing.
    """
    if files := _listed(path, INDEX) or _single(path, SINGLE):
        return files
    if pickles := find_pickles(path):
        raise ModelError(
            f"{path} holds weights as torch pickles only, {pickles[0].name} first. Loading a pickle can run "
            "code.\nGive --allow-pickle (allow_pickle=True) to read them without running code and cache them as "
            "safetensors.\nOr load the model with transformers and save it with save_pretrained(), which writes "
            "safetensors."
        )
    raise ModelError(
        f"{path} holds a config but no weights: neither {SINGLE} nor {INDEX}.\n"
        f"If a model on the hub has only {PICKLE}, give --allow-pickle (allow_pickle=True)."
    )


def find_pickles(path: Path) -> list[Path]:
    """Return the torch pickles of a checkpoint directory that may hold weights.

    Raises:
        ModelError: Some files are missing.
    """
    if files := _listed(path, PICKLE_INDEX) or _single(path, PICKLE):
        return files
    return sorted(file for file in path.glob("*.bin") if file.name not in NO_WEIGHTS)


def has_safetensors(path: Path) -> bool:
    """Return whether a checkpoint directory has safetensors."""
    return (path / INDEX).is_file() or (path / SINGLE).is_file()


def _single(path: Path, name: str) -> list[Path]:
    return [path / name] if (path / name).is_file() else []


def _listed(path: Path, index_name: str) -> list[Path]:
    """Return the files that an index of shards lists; empty if there is no index."""
    index = path / index_name
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{index} is not a valid index of shards: {error!r}\nDownload the checkpoint again."
        ) from error
    if missing := [name for name in names if not (path / name).is_file()]:
        raise ModelError(
            f"{path}: {len(missing)} of {len(names)} weight files are missing, {missing[0]} first.\nDownload or copy "
            "the checkpoint again."
        )
    return [path / name for name in names]


def read_headers(path: Path) -> dict[str, TensorInfo]:
    """Return the headers of all weight files, by tensor name.

    Raises:
        ModelError: A file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="np") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a mapping
                    if name.endswith(NEVER_READ):
                        continue
                    part = handle.get_slice(name)
                    dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
                    tensors[name] = TensorInfo(file, name, dtype, tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} is damaged: {error}\nIt may be truncated; download or copy the checkpoint again."
            ) from error
    return tensors


def check_dtypes(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise an error for weights of other dtypes than those of `DTYPES`.

    Raises:
        UnsupportedModelError: There are such weights; the message names the dtypes and the likely quantization method.
    """
    foreign = {info.dtype for info in tensors.values()} - set(DTYPES.values())
    if not foreign:
        return
    makers = sorted({QUANTIZED_DTYPES[dtype] for dtype in foreign if dtype in QUANTIZED_DTYPES})
    guess = (
        f"They are probably quantized by {', or '.join(makers)}, although config.json does not say so.\n"
        if makers
        else ""
    )
    raise UnsupportedModelError(
        f"{path}: weights of dtype {', '.join(sorted(foreign))} are not supported; "
        f"supported: {', '.join(DTYPES.values())}.\n{guess}"
        "Dequantize the checkpoint first, with the tool that quantized it, or use the original checkpoint."
    )
