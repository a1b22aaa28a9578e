"""The weight files of a checkpoint directory, their headers, and their tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from amp_export.checkpoints.source_files import reading
from amp_export.documents import convert, parse_json, read_text
from amp_export.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLE = "pytorch_model.bin"

NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "scheduler.bin", "random_states_0.bin"})
"""Pickles beside the weights that hold no weights."""

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Dtype names in configs, by their names in safetensors headers."""

_VALUE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

BESIDE_WEIGHTS = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
"""Dtype names of numpy, by their names in safetensors headers, for what is copied and never computed with."""

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

_AGAIN = "Download or copy the checkpoint again."

NEVER_READ = ("position_ids",)
"""Suffixes of tensor names in old encoder checkpoints: constant indices that are never read."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a safetensors file, as the file's header describes it.

    Attributes:
        file: The file.
        stored_name: The tensor's name in it.
        dtype: Its dtype, as configs call it.
        shape: Its shape.
        start: Where its values begin in the file, in bytes.
        parts: The tensors whose rows it consists of, if it is none of its own; the rest then describes the first.
    """

    file: Path
    stored_name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    parts: tuple[TensorInfo, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold its values."""
        return tuple(part.file for part in self.parts) or (self.file,)

    def entry(self, number: int) -> TensorInfo:
        """Return what lies at an index of its first axis; its dtype must be one of `DTYPES`."""
        size = math.prod(self.shape[1:]) * _VALUE_BYTES[self.dtype]
        return replace(self, shape=self.shape[1:], start=self.start + number * size)


@dataclass(frozen=True)
class _Index:
    """An index of shards.

    Attributes:
        weight_map: File names by tensor name.
        metadata: Anything; transformers does not read an index of safetensors without it.
    """

    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any] | None = None


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint directory; as in transformers, a single file precedes an index.

    Source: `_get_resolved_checkpoint_files`, `modeling_utils.py`, transformers 5.24.

    Raises:
        ModelError: There are no safetensors, or some files are missing.
    """
    if files := _single(path, SINGLE) or _listed(path, INDEX):
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
    if files := _single(path, PICKLE) or _listed(path, PICKLE_INDEX):
        return files
    return sorted(file for file in path.glob("*.bin") if file.name not in NO_WEIGHTS)


def has_safetensors(path: Path) -> bool:
    """Return whether a checkpoint directory has safetensors."""
    return (path / INDEX).is_file() or (path / SINGLE).is_file()


def _single(path: Path, name: str) -> list[Path]:
    return [path / name] if (path / name).is_file() else []


def _listed(path: Path, index_name: str) -> list[Path]:
    """Return the files that an index of shards lists; empty if there is no index."""
    file = path / index_name
    if not file.is_file():
        return []
    names = listed_names(file)
    if missing := [name for name in names if not (path / name).is_file()]:
        raise ModelError(
            f"{path}: {len(missing)} of {len(names)} weight files are missing, {missing[0]!r} first.\n{_AGAIN}"
        )
    return [path / name for name in names]


def listed_names(file: Path) -> list[str]:
    """Return the names of the weight files that an index of shards lists.

    Raises:
        ModelError: It is damaged, lists none, or refers to files that are not beside it.
    """
    names = sorted(set(_read_index(file).weight_map.values()))
    if not names:
        raise ModelError(f"{file} lists no weight files.\n{_AGAIN}")
    if outside := [name for name in names if not _is_file_name(name)]:
        raise ModelError(
            f"{file} refers to weights in {outside[0]!r}, but expected is the name of a file beside it.\nUse a "
            "checkpoint from a source that you trust, with all of its files in one directory."
        )
    return names


def _read_index(file: Path) -> _Index:
    try:
        content = parse_json(read_text(file, error=ModelError), source=str(file), error=ModelError)
        index = convert(content, _Index, source=str(file), ignore_unknown=True, error=ModelError)
    except ModelError as problem:
        raise ModelError(f"{problem}\n{_AGAIN}") from problem
    if file.name == INDEX and index.metadata is None:
        raise ModelError(f"{file}: metadata is missing, without which transformers does not read it.\n{_AGAIN}")
    return index


def _is_file_name(name: str) -> bool:
    """Return whether a path is a file's name on both systems: without directories, drives and what no name holds."""
    is_name = PurePosixPath(name).name == PureWindowsPath(name).name == name
    return is_name and name not in ("", "..") and "\0" not in name


def read_headers(path: Path) -> dict[str, TensorInfo]:
    """Return the headers of all weight files, by tensor name.

    Raises:
        ModelError: A file is missing or damaged.
    """
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(path):
        with reading(file):
            infos = read_header(file)
        tensors |= {info.stored_name: info for info in infos if not info.stored_name.endswith(NEVER_READ)}
    return tensors


def read_header(file: Path) -> list[TensorInfo]:
    """Return what the header of a safetensors file says of its tensors.

    The file begins with the header's length, 8 bytes, little-endian; the header is JSON, and the values follow it.
    Source: "Format" in the README of safetensors 0.6.

    Raises:
        ModelError: The file is damaged.
        OSError: The file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # the library checks that dtypes, shapes, offsets and the file's length agree
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise ModelError(f"{file} is damaged: {error}\nIt may be truncated. {_AGAIN}") from error
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, dict[str, Any]] = parse_json(stream.read(length), source=str(file), error=ModelError)
    return [
        TensorInfo(
            file=file,
            stored_name=name,
            dtype=DTYPES.get(tensor["dtype"], tensor["dtype"]),
            shape=tuple(tensor["shape"]),
            start=8 + length + tensor["data_offsets"][0],
        )
        for name, tensor in header.items()
        if name != "__metadata__"
    ]


def read_tensor(info: TensorInfo) -> Array:
    """Read one tensor as it is, from the mapped file; bfloat16 is returned as `ml_dtypes.bfloat16`.

    The array cannot be written to. Unless it has parts, it costs no memory: the system reads and drops its pages as it
    likes.

    Raises:
        ModelError: The file cannot be read.
    """
    import ml_dtypes  # noqa: F401 - registers "bfloat16" with numpy
    import numpy as np

    if info.parts:
        return np.concatenate([read_tensor(part) for part in info.parts])
    dtype = BESIDE_WEIGHTS.get(info.dtype, info.dtype)
    if 0 in info.shape:
        return np.empty(info.shape, dtype)
    with reading(info.file):
        return np.asarray(np.memmap(info.file, dtype, mode="r", offset=info.start, shape=info.shape))


def check_dtypes(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise an error for weights of other dtypes than those of `DTYPES`.

    Raises:
        UnsupportedModelError: There are such weights; the message names the dtypes and the likely quantization method.
    """
    unsupported = {info.dtype for info in tensors.values()} - set(DTYPES.values())
    if not unsupported:
        return
    makers = sorted({QUANTIZED_DTYPES[dtype] for dtype in unsupported if dtype in QUANTIZED_DTYPES})
    guess = (
        f"They are probably quantized by {', or '.join(makers)}, although config.json does not say so.\n"
        if makers
        else ""
    )
    raise UnsupportedModelError(
        f"{path}: weights of dtype {', '.join(sorted(unsupported))} are not supported; "
        f"supported: {', '.join(DTYPES.values())}.\n{guess}"
        "Dequantize the checkpoint first, with the tool that quantized it, or use the original checkpoint."
    )
