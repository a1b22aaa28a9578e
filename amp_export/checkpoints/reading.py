"""Read checkpoints: config.json and safetensors, one tensor at a time, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import (
    RESIZED_MODEL_TYPE,
    Architecture,
    LayerWidths,
    ModelConfig,
    find_architecture,
    matrix_shapes,
    parameter_count,
    stored_parts,
)
from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.snapshots import Snapshot
from amp_export.checkpoints.stacked import known_names, name_matrices
from amp_export.checkpoints.tying import differs_from_embedding
from amp_export.checkpoints.unsupported import (
    refuse_adapter,
    refuse_named_weights,
    refuse_quantized,
    refuse_removed_heads,
)
from amp_export.checkpoints.weight_files import TensorInfo, check_dtypes, read_headers, read_tensor
from amp_export.documents import parse_json, read_text
from amp_export.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


_PIECE = 1 << 18
"""Values that are checked at once: what is in between stays in the cache, which makes a check three times as fast."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are complete and match its config.

    Attributes:
        path: Its directory.
        raw_config: The content of config.json.
        config: The fields that determine what the model computes.
        widths: The widths of each layer.
        tensors: The headers of its safetensors files, by the tensors' names in the architecture's facts; those of
            stacked weights are parted: see `matrix_shapes`.
        snapshot: Its files before any of them was read.
    """

    path: Path
    raw_config: Mapping[str, Any]
    config: ModelConfig
    widths: tuple[LayerWidths, ...]
    tensors: Mapping[str, TensorInfo]
    snapshot: Snapshot

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold its tensors, sorted."""
        return sorted({file for info in self.tensors.values() for file in info.files})

    @property
    def dtype(self) -> str:
        """The dtype of most of its weights."""
        return Counter(info.dtype for info in self.tensors.values()).most_common(1)[0][0]

    def read(self, name: str) -> Array:
        """Read one tensor; bfloat16 is returned as `ml_dtypes.bfloat16`.

        Raises:
            ModelError: The file cannot be read, or the tensor holds a NaN or an infinity.
        """
        return read_finite(self.tensors[name], name)

    def companions(self) -> list[Path]:
        """Return the files beside config and weights that travel with them."""
        return find_companions(self.path)


def read_finite(info: TensorInfo, name: str, *, on_piece: Callable[[Array], None] | None = None) -> Array:
    """Read one tensor as `read_tensor` does.

    Args:
        info: The tensor.
        name: Its name for messages.
        on_piece: Called with each piece of it, in their order, while that is in the cache.

    Raises:
        ModelError: The file cannot be read, or the tensor holds a NaN or an infinity.
    """
    array = read_tensor(info)
    count = 0
    for piece in _pieces(array):
        if on_piece is not None:
            on_piece(piece)
        count += _count_not_finite(piece)
    if count:
        raise ModelError(
            f"{info.file}: {name} holds {count} values that are NaN or infinite.\n"
            "Such a model cannot compute anything; use a checkpoint from before training diverged."
        )
    return array


def _pieces(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    return (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))


def _count_not_finite(values: Array) -> int:
    import numpy as np

    if values.dtype.itemsize == 2:
        # numpy has no fast isfinite for 16-bit floats; infinities and NaNs have all exponent bits set
        exponent = np.uint16(0x7C00 if values.dtype == np.float16 else 0x7F80)
        return int(np.count_nonzero((values.view(np.uint16) & exponent) == exponent))
    return values.size - int(np.count_nonzero(np.isfinite(values)))


def read_raw_config(file: Path) -> dict[str, Any]:
    """Return the content of a config.json, which names a type.

    Raises:
        ModelError: It cannot be read, is no JSON, or names no type.
    """
    raw = parse_json(read_text(file, error=ModelError), source=str(file), error=ModelError)
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise ModelError(f"{file} has no model_type, so the architecture is unknown.")
    return raw


def read_config(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    """Return the config of a checkpoint directory, raw and parsed.

    If it ties the LM head to the embedding, but the files hold a head with other values, both say that it is not tied.

    Raises:
        ModelError: The directory or its config.json does not exist, or the config is invalid.
        UnsupportedModelError: The architecture or a config field is not supported, or it is quantized or an adapter.
    """
    file = path / "config.json"
    if not path.is_dir():
        raise ModelError(f"No such checkpoint directory: {path}")
    refuse_adapter(path)
    if not file.is_file():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise ModelError(f"{path} holds no config.json, so it is not a checkpoint.\nFound: {found}.")
    raw = read_raw_config(file)
    plain = raw if raw["model_type"] != RESIZED_MODEL_TYPE else _dense_config(file, raw)
    architecture = _find_architecture(plain)
    refuse_quantized(plain, architecture)
    refuse_named_weights(file, raw)
    refuse_removed_heads(file, plain)
    config = ModelConfig.read(architecture, plain)
    if not config.architecture.knows_files:
        from amp_export.checkpoints.loading import count_parameters

        # only transformers knows the tensors outside the layers
        other = count_parameters(plain, path) - parameter_count(config)
        return raw, replace(config, other_parameters=other)
    if config.tie_word_embeddings and differs_from_embedding(path, config):
        raw, plain = _untie(raw), _untie(plain)
        config = ModelConfig.read(architecture, plain)
    return raw, config


def _untie(raw: Mapping[str, Any]) -> dict[str, Any]:
    if raw["model_type"] == RESIZED_MODEL_TYPE:
        return {**raw, "dense": _untie(raw["dense"])}
    return {**raw, "tie_word_embeddings": False}


def _find_architecture(plain: Mapping[str, Any]) -> Architecture:
    try:
        return find_architecture(plain["model_type"])
    except UnsupportedModelError as error:
        if code := code_beside(plain):
            raise UnsupportedModelError(
                f"{error}\nIt contains its own code ({', '.join(code)}: auto_map in config.json), and code in "
                "checkpoints is never run.\nUse a checkpoint of a model class in transformers."
            ) from None
        raise


def code_beside(raw_config: Mapping[str, Any]) -> list[str]:
    """Return the code files that a config.json names; transformers runs them only with `trust_remote_code=True`.

    They are never run here: known families are loaded in transformers' own class, and resized checkpoints with this
    package's own copy of the modeling file.
    """
    auto_map = raw_config.get("auto_map")
    if not isinstance(auto_map, dict) or raw_config.get("model_type") == RESIZED_MODEL_TYPE:
        return []
    # a tokenizer has two classes, one of which may be missing
    names = [name for value in auto_map.values() for name in (value if isinstance(value, list) else [value]) if name]
    return sorted({f"{str(name).rpartition('--')[2].split('.')[0]}.py" for name in names})


def _dense_config(file: Path, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    dense = raw.get("dense")
    if not isinstance(dense, dict) or not isinstance(dense.get("model_type"), str) or "layer_widths" not in raw:
        raise ModelError(f"{file} is of type {RESIZED_MODEL_TYPE}, but lacks `dense` or `layer_widths`: it is damaged.")
    return dense


def read_widths(file: Path, raw: Mapping[str, Any], config: ModelConfig) -> tuple[LayerWidths, ...]:
    """Return the widths of each layer of a checkpoint, read from its config.

    Raises:
        ModelError: `layer_widths` is damaged.
    """
    if "layer_widths" not in raw:
        return tuple(site.widths for site in config.sites)
    try:
        widths = tuple(LayerWidths(**layer) for layer in raw["layer_widths"])
    except TypeError as error:
        raise ModelError(f"{file}: layer_widths is damaged: {error}") from error
    if len(widths) != len(config.sites):
        raise ModelError(f"{file}: layer_widths has {len(widths)} layers, but the model has {len(config.sites)}.")
    return widths


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint and check its files against its config; the weights stay on disk.

    Raises:
        ModelError: Weights are missing, surplus or truncated, or their shapes do not match the config.
        UnsupportedModelError: The architecture or the dtype is not supported.
    """
    snapshot = take_snapshot(path)
    raw, config = read_config(path)
    widths = read_widths(path / "config.json", raw, config)
    shapes = matrix_shapes(config, widths)
    obsolete = config.architecture.obsolete
    tensors = {name: info for name, info in read_headers(path).items() if not name.endswith(obsolete)}
    if config.architecture.knows_files:
        tensors = name_matrices(config, _name_tensors(config, tensors, {*shapes, *known_names(config)}))
        _check_names(path, config, tensors, shapes)
        _check_shapes(path, tensors, shapes)
    check_dtypes(path, tensors)
    return Checkpoint(path=path, raw_config=raw, config=config, widths=widths, tensors=tensors, snapshot=snapshot)


def take_snapshot(path: Path) -> Snapshot:
    """Return the snapshot of a checkpoint's files: config, weights and companions."""
    return Snapshot.of(path, _find_files)


def _find_files(path: Path) -> set[Path]:
    patterns = ("config.json", "*.safetensors", "*.safetensors.index.json")
    found = {file for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    return found | set(find_companions(path))


def _name_tensors(
    config: ModelConfig, stored: Mapping[str, TensorInfo], known: Collection[str]
) -> dict[str, TensorInfo]:
    """Rename tensors that are stored under module names, or relative to a model without a head."""
    architecture = config.architecture
    other = {module: file for file, module in architecture.module_names.items()}
    named: dict[str, TensorInfo] = {}
    for name, info in stored.items():
        path, _, parameter = name.rpartition(".")
        prefixed = (
            f"{own}{name.removeprefix(given)}"
            for given, own in architecture.other_prefixes.items()
            if name.startswith(given)
        )
        candidates = (name, f"{other.get(path, path)}.{parameter}", f"{architecture.base_model}.{name}", *prefixed)
        named[next((candidate for candidate in candidates if candidate in known), name)] = info
    return named


def _check_names(
    path: Path, config: ModelConfig, tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> None:
    head = config.architecture.head
    heads = {f"{name}.weight" for name in (head, config.architecture.module_names.get(head, head))}
    missing = [name for name in expected if name not in tensors]
    # transformers does not store a tied LM head, but other tools do
    surplus = [name for name in tensors if name not in expected and name not in heads]
    harmless = config.architecture.harmless
    surplus = [name for name in surplus if not any(f".{part}." in f".{name}." for part in harmless)]
    if missing:
        # under its name in files, which may be that of a part
        first = next(part for part in stored_parts(config).get(missing[0], missing) if part not in tensors)
        raise ModelError(
            f"{path}: {len(missing)} tensors that config.json requires are missing, {first} first.\n"
            f"The files hold {len(tensors)} tensors."
        )
    if surplus:
        raise ModelError(
            f"{path}: {len(surplus)} tensors do not belong to a {config.architecture.class_name} with this config, "
            f"{surplus[0]} first.\nIf it is an adapter, merge it first."
        )


def _check_shapes(path: Path, tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check every shape against the config, since transformers would reject a mismatch later."""
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ModelError(
                f"{path}: {name} has the shape {list(tensors[name].shape)}, but config.json requires "
                f"{list(shape)}.\nThe config and the weights are of different models."
            )
