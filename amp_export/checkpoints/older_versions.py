"""Names in config.json and tokenizer files that transformers 4 reads, next to those of transformers 5.

Transformers 5 renamed fields. Version 4 does not know the new names and takes its defaults instead, without a message:
a checkpoint with `rope_parameters` alone loads there as another model. With both names, all versions load the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amp_export.documents import read_object
from amp_export.errors import ModelError

_LAYERED = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "gemma3n_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "olmo3": {"full_attention": "rope_theta"},
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
}
"""For models with RoPE parameters for each type of layer, the old names of `rope_theta`. Source: the config classes
`Gemma3TextConfig`, `Olmo3Config` and `ModernBertConfig` of transformers 4.57; for Gemma 3n, what 5.24 still reads."""

_ROPE_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
"""Old names of RoPE parameters that other models do not have. Source: `GPTNeoXConfig` of transformers 4.57."""

_FIELD_NAMES = {"qwen3_moe": {"num_local_experts": "num_experts"}}
"""Old names of other fields. Source: `attribute_map` of `Qwen3MoeConfig`, transformers 5.24."""

_LAYER_KINDS = {"granitemoehybrid": {"full_attention": "attention", "linear_attention": "mamba"}}
"""Old names of kinds of layers, which version 4 requires and version 5 reads, too. Source: `GraniteMoeHybridConfig` of
transformers 4.57; `remap_legacy_layer_types`, configuration_utils.py of 5.24."""

TOKENIZER_CONFIG = "tokenizer_config.json"


def add_old_names(raw_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json with the names of transformers 4.45 to 4.57 added.

    Args:
        raw_config: Content of config.json.
    """
    content = dict(raw_config)
    if "dtype" in content:
        content.setdefault("torch_dtype", content["dtype"])
    model_type = str(content.get("model_type"))
    for name, old_name in _FIELD_NAMES.get(model_type, {}).items():
        if name in content:
            content.setdefault(old_name, content[name])
    if (kinds := _LAYER_KINDS.get(model_type)) is not None and isinstance(layers := content.get("layer_types"), list):
        content["layer_types"] = [kinds.get(kind, kind) for kind in layers]
    return content | _rope_fields(model_type, content)


def _rope_fields(model_type: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of transformers 4 for `rope_parameters`."""
    rope = content.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return {}
    if "rope_theta" in rope:
        names = _ROPE_NAMES.get(model_type, {})
        known = [name for name in ("rope_theta", "partial_rotary_factor") if name in rope]
        fields = {names.get(name, name): rope[name] for name in known}
    else:
        layered = _LAYERED.get(model_type, {})
        fields = {name: rope[layers]["rope_theta"] for layers, name in layered.items() if layers in rope}
        rope = rope.get("full_attention", {})
    scaling = content.get("rope_scaling") or _scaling(rope)
    if model_type == "phi3" and scaling is not None:
        # `Phi3Config` of transformers 4.57 refuses other keys; the original context is a field of its own
        scaling = {"type": rope["rope_type"], **{name: scaling[name] for name in ("short_factor", "long_factor")}}
        fields["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return {**fields, "rope_scaling": scaling} if fields else {}


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    if rope.get("rope_type", "default") == "default":
        return None
    return {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}


def write_config(folder: Path, raw_config: Mapping[str, Any]) -> None:
    """Write config.json for all versions of transformers that load the model."""
    text = json.dumps(add_old_names(raw_config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def name_tokenizer_class(folder: Path, class_name: str | None = None) -> None:
    """Write the class of the tokenizer under a name that transformers 4 knows.

    Args:
        folder: Folder of the tokenizer's files; nothing is written if it has none.
        class_name: Name of the class; by default the one in the file.

    Raises:
        ModelError: The file is damaged.
    """
    file = folder / TOKENIZER_CONFIG
    if not file.is_file():
        return
    content = read_object(file, error=ModelError)
    name = class_name or content.get("tokenizer_class")
    # the same class under its name before transformers 5, which both load
    name = "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name
    if name != content.get("tokenizer_class"):
        file.write_text(json.dumps({**content, "tokenizer_class": name}, indent=2) + "\n", encoding="utf-8")
