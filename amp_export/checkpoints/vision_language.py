"""Take the language model out of a vision-language model as a checkpoint of its own, and put it back pruned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Architecture, ModelConfig, find_architecture, tensor_shapes
from amp_export.architectures._position_axes import AXES_FIELDS, SECTIONS
from amp_export.architectures._vision_language import VISION_LANGUAGE, LanguageModel
from amp_export.checkpoints.building import build_from_config, read_model_config, transformers_errors
from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.hashing import hash_files
from amp_export.checkpoints.older_versions import write_config
from amp_export.checkpoints.quiet import quiet_transformers
from amp_export.checkpoints.reading import read_config
from amp_export.checkpoints.unsupported import refuse_quantized
from amp_export.checkpoints.weight_files import TensorInfo, has_safetensors, read_headers, read_tensor, weight_files
from amp_export.checkpoints.writing import write_checkpoint
from amp_export.documents import decode_json, read_object
from amp_export.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

EMBEDDING = "embed_tokens.weight"
"""Last parts of the name of the token embedding, which no other part of these models has."""

_COUNTS = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
"""Fields that pruning changes, by their usual names."""

_SIBLING = frozenset({"model_type", "sliding_window"})
"""Fields that a rewrite to a class that computes the same changes: see `Sibling`."""

_OF_THE_FILE = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})
"""Fields of a config.json that say nothing of the language model."""


@dataclass(frozen=True)
class Parts:
    """A vision-language model, with its language model told from the rest.

    Attributes:
        path: Its directory.
        raw_config: Content of its config.json.
        facts: What is known of its type.
        config: Content of config.json for the language model as a checkpoint of its own.
        stored: Headers of its tensors, by their names in its files; empty if it has no weights.
        left_out: Names of tensors in its files that do not belong to it once it is pruned: see `LanguageModel`.
        names: Names of the language model's tensors as a checkpoint of its own, by their names in the files.
    """

    path: Path
    raw_config: Mapping[str, Any]
    facts: LanguageModel
    config: Mapping[str, Any]
    stored: Mapping[str, TensorInfo]
    left_out: tuple[str, ...]
    names: Mapping[str, str]


def is_vision_language(raw_config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a vision-language model whose language model can be pruned."""
    return raw_config.get("model_type") in VISION_LANGUAGE


def refuse_type(raw_config: Mapping[str, Any]) -> None:
    """Raise an error for a type of vision-language models whose language model cannot be pruned.

    Raises:
        UnsupportedModelError: The model is of such a type; the message says why.
    """
    reason = VISION_LANGUAGE[raw_config["model_type"]].not_pruned
    if reason is not None:
        raise UnsupportedModelError(
            f"The language model within a {raw_config['model_type']} cannot be pruned: {reason}"
        )


def tell_parts(path: Path) -> Parts:
    """Tell the language model of a vision-language model from the rest.

    Raises:
        ModelError: transformers refuses the config, or weights are missing or damaged.
        UnsupportedModelError: The language model cannot be told, is of an unsupported family, or is quantized.
    """
    raw = read_object(path / "config.json", error=ModelError)
    refuse_type(raw)
    facts = VISION_LANGUAGE[raw["model_type"]]
    fields = _language_fields(path, facts)
    try:
        architecture = find_architecture(fields["model_type"])
    except UnsupportedModelError as error:
        found = f"its language model is of type {fields['model_type']!r}, which is not supported"
        raise UnsupportedModelError(_cannot_tell(path, found)) from error
    refuse_quantized(raw, architecture)
    # transformers stacks the weights of experts, so that files name them otherwise than its models
    if architecture.mlp.has_experts:
        found = f"the tensors of a {architecture.class_name} are not known by name"
        raise UnsupportedModelError(_cannot_tell(path, found))
    config = {"architectures": [architecture.class_name], **fields}
    headers = read_headers(path) if has_safetensors(path) else {}
    left_out = tuple(name for name in headers if name.partition(".")[0] in facts.left_out)
    stored = {name: info for name, info in headers.items() if name not in left_out}
    parsed = ModelConfig.read(architecture, config)
    names = _language_names(path, stored, architecture, _expected(path, parsed, config)) if stored else {}
    return Parts(path, raw, facts, config, stored, left_out, names)


def extract(path: Path, folder: Path) -> None:
    """Write the language model of a vision-language model as a checkpoint.

    Args:
        path: The vision-language model; without weights, the config alone is written.
        folder: The directory to create.

    Raises:
        ModelError: See `tell_parts`.
        UnsupportedModelError: See `tell_parts`.
    """
    parts = tell_parts(path)
    if not parts.stored:
        folder.mkdir(parents=True)
        write_config(folder, parts.config)
        return
    tensors = ((name, read_tensor(parts.stored[stored])) for stored, name in parts.names.items())
    write_checkpoint(folder, parts.config, tensors, companions=find_companions(path), base=path)


def join(path: Path, pruned: Path, folder: Path) -> None:
    """Write a vision-language model with its language model replaced; all else that is loaded is copied as it is.

    Args:
        path: The vision-language model, dense or pruned before.
        pruned: The checkpoint of the other language model, which an unresized class of transformers loads.
        folder: The directory to create.

    Raises:
        ModelError: A file is damaged.
    """
    parts = tell_parts(path)
    after = read_object(pruned / "config.json", error=ModelError)
    headers = read_headers(pruned)

    def tensors() -> Iterator[tuple[str, Array]]:
        for stored, info in parts.stored.items():
            name = parts.names.get(stored)
            if name is None:
                yield stored, read_tensor(info)
            elif name in headers:
                yield stored, read_tensor(headers[name])
            # otherwise it is an LM head that is tied to the embedding, which transformers restores

    config = join_configs(parts, after)
    write_checkpoint(folder, config, tensors(), companions=find_companions(path), base=path)


def join_configs(parts: Parts, after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json of the whole for another language model.

    Args:
        parts: The whole.
        after: Content of config.json of the language model.
    """
    architecture = find_architecture(after["model_type"])
    nested = parts.raw_config.get("text_config")
    said = nested if isinstance(nested, Mapping) else parts.raw_config
    counts = {architecture.field_name(count) for count in _COUNTS}
    # a null is no missing field: a Mistral without `sliding_window` has one
    absent = object()
    changed = {
        name: value
        for name, value in after.items()
        # counts that the file leaves out are written: transformers derives them from others, which pruning changes
        if (name in counts and said.get(name, absent) != value)
        or (name in _SIBLING and parts.config.get(name, absent) != value)
    }
    if isinstance(nested, Mapping):
        changed |= {name: 0 for name in parts.facts.left_out_fields if name in nested}
        return {**parts.raw_config, "text_config": {**nested, **changed}}
    # configs from before `text_config` have its fields among their own: `Qwen2_5_VLConfig.__post_init__`
    return {**parts.raw_config, **changed}


def special_tokens(raw_config: Mapping[str, Any]) -> Iterator[int]:
    """Yield the tokens that the config of a vision-language model names, such as `image_token_id`."""
    for name, value in raw_config.items():
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            yield value


def read_exported_config(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """Return the config of a checkpoint or an export, raw and parsed: of a vision-language model, its language model's.

    Raises:
        ModelError: See `read_config`.
        UnsupportedModelError: See `read_config`.
    """
    file = folder / "config.json"
    raw = read_object(file, error=ModelError) if file.is_file() else {}
    if not is_vision_language(raw):
        return read_config(folder)
    fields = _language_fields(folder, VISION_LANGUAGE[raw["model_type"]])
    return fields, ModelConfig.read(find_architecture(fields["model_type"]), fields)


def read_axes(path: Path, head_dim: int) -> tuple[int, ...]:
    """Return the row of positions that turns each pair of dimensions of a head, where tokens have several positions.

    Args:
        path: The vision-language model.
        head_dim: The width of a head of its language model.

    Returns:
        0 for time, 1 for height and 2 for width; empty if a token has one position.

    Raises:
        ModelError: transformers refuses the config, or it does not say the axis of each pair.
    """
    facts = VISION_LANGUAGE[read_object(path / "config.json", error=ModelError)["model_type"]]
    if facts.axes is None:
        return ()
    with quiet_transformers(), transformers_errors(path):
        text = read_model_config(path).get_text_config(decoder=True)
    return facts.axes.of_pairs(head_dim // 2, text.rope_parameters.get(SECTIONS))


def read_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a vision-language model's config, all of them, as transformers reads them.

    Raises:
        ModelError: transformers refuses the config.
    """
    with quiet_transformers(), transformers_errors(path):
        return _all_fields(read_model_config(path))


def read_vision_fields(path: Path) -> dict[str, Any]:
    """Return the fields of its vision encoder, as `read_fields` does those of all."""
    fields: dict[str, Any] = read_fields(path)["vision_config"]
    return fields


def hash_whole(path: Path) -> str:
    """Return one SHA-256 over all files that an extraction reads."""
    weights = weight_files(path) if has_safetensors(path) else []
    files = [path / "config.json", *weights, *find_companions(path)]
    return hash_files((file.relative_to(path).as_posix(), file) for file in files)


def _all_fields(config: Any) -> dict[str, Any]:
    """Return the fields of a config of transformers, also those with their defaults."""
    fields: dict[str, Any] = decode_json(config.to_json_string(use_diff=False))
    return fields


def _language_fields(path: Path, facts: LanguageModel) -> dict[str, Any]:
    """Return the fields of the language model, all of them, as transformers reads them.

    Raises:
        UnsupportedModelError: It has none.
    """
    with quiet_transformers(), transformers_errors(path):
        whole = read_model_config(path)
        text = whole.get_text_config(decoder=True)
        fields = _all_fields(text)
    if text is whole:
        raise UnsupportedModelError(_cannot_tell(path, "config.json has no text_config"))
    rope = fields.get("rope_parameters")
    if isinstance(rope, dict) and facts.axes is not None:
        fields["rope_parameters"] = {name: value for name, value in rope.items() if name not in AXES_FIELDS}
    fields = {name: value for name, value in fields.items() if not name.startswith("_") and name not in _OF_THE_FILE}
    on_text = {name: values[fields[name]] for name, values in facts.text_values.items() if fields.get(name) in values}
    return {
        **fields,
        **on_text,
        "model_type": facts.model_type or fields["model_type"],
        # the class of the whole ties the LM head, by its own field
        "tie_word_embeddings": bool(whole.tie_word_embeddings),
        "dtype": str(whole.dtype).removeprefix("torch.") if whole.dtype is not None else None,
    }


def _expected(path: Path, config: ModelConfig, raw_config: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the language model's tensors as a checkpoint of its own, without an LM head that is tied."""
    if config.architecture.knows_files:
        return frozenset(tensor_shapes(config))
    model = build_from_config(raw_config, path)
    return frozenset(model.state_dict()) - frozenset(model.all_tied_weights_keys)


def _language_names(
    path: Path, stored: Mapping[str, TensorInfo], architecture: Architecture, expected: frozenset[str]
) -> dict[str, str]:
    """Return the names of the language model's tensors as a checkpoint of its own, by their names in the files.

    Raises:
        UnsupportedModelError: They cannot be told from others, or some are missing.
    """
    prefixes = [name.removesuffix(EMBEDDING) for name in stored if f".{name}".endswith(f".{EMBEDDING}")]
    if len(prefixes) != 1:
        found = f"{len(prefixes)} of its tensors end in {EMBEDDING}, but one is expected"
        raise UnsupportedModelError(_cannot_tell(path, found))
    base = f"{architecture.base_model}."
    inner = {f"{prefixes[0]}{name.removeprefix(base)}": name for name in expected if name.startswith(base)}
    head = f"{architecture.head}.weight"
    heads = [name for name in stored if f".{name}".endswith(f".{head}")]
    if len(heads) > 1:
        found = f"{len(heads)} of its tensors are LM heads: {', '.join(sorted(heads))}"
        raise UnsupportedModelError(_cannot_tell(path, found))
    names = {**inner, **dict.fromkeys(heads, head)}
    missing = sorted({*inner, *([head] if head in expected and not heads else [])} - stored.keys())
    if missing:
        found = f"{len(missing)} tensors of its {architecture.class_name} are missing, {missing[0]} first"
        raise UnsupportedModelError(_cannot_tell(path, found))
    return names


def _cannot_tell(path: Path, found: str) -> str:
    return (
        f"The language model of {path} cannot be told from the rest: {found}.\n"
        "Save it as a checkpoint of its own with transformers, and prune that."
    )
