"""genai_config.json, with which onnxruntime-genai opens an exported folder directly."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_export.architectures import ModelConfig, ShortConvolution, cache_tensors
from amp_export.checkpoints.reading import Checkpoint
from amp_export.documents import convert, parse_json, read_text
from amp_export.errors import ModelError
from amp_export.exporters.models.ports import EMBEDDINGS
from amp_export.exporters.onnx.builder.products import ACCURACY_LEVEL
from amp_export.exporters.onnx.sessions import ACCURACY_CONFIG
from amp_export.options import Operators

GENAI_CONFIG = "genai_config.json"

_KNOWN_TYPES = frozenset(
    {
        *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3"),
        *("qwen3_5_text", "smollm3"),
    }
)
"""Values of `model.type` that onnxruntime-genai 0.18 opens; its gpt2 expects keys and values in one tensor."""

_WITH_CONVOLUTIONS = "lfm2"
"""Value of `model.type` for decoders in which short convolutions take the place of attention in some layers."""

_ANY_DECODER = "decoder"
"""Value of `model.type` for all other decoders."""

_STATES = {"conv": "conv", "recurrent": "recurrent", "ssm": "recurrent"}
"""What onnxruntime-genai calls states, by their names in our graphs."""

_INPUTS = ("input_ids", EMBEDDINGS, "attention_mask", "position_ids")
"""Inputs of decoders that go by the same names in `model.decoder.inputs`, besides the KV cache."""

_SEARCH_FIELDS = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
"""Fields of generation_config.json that onnxruntime-genai knows under the same names."""


@dataclass(frozen=True, kw_only=True)
class SeeingModel:
    """What onnxruntime-genai has to know of a vision-language model, besides its decoder.

    Attributes:
        model_type: Value of `model.type`.
        generation: Fields of its config and generation_config.json.
        width: Width of what its decoder reads for a token.
        fields: Further fields of `model`.
    """

    model_type: str
    generation: Mapping[str, Any]
    width: int
    fields: Mapping[str, Any]


def write_genai_config(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    graph: str,
    inputs: Collection[str],
    operators: Operators,
    has_blocks: bool = False,
    seeing: SeeingModel | None = None,
) -> bool:
    """Write genai_config.json for onnxruntime-genai 0.18, if such a file can describe the model.

    Args:
        checkpoint: Exported checkpoint.
        folder: Folder of the export.
        graph: File name of the graph in that folder.
        inputs: Names of its inputs.
        operators: Its operators.
        has_blocks: Whether its weights are quantized in blocks.
        seeing: The vision-language model whose decoder it is; None for a decoder alone.

    Returns:
        Whether the file was written: see `cannot_describe`.

    Raises:
        ModelError: generation_config.json is damaged.
    """
    generation = seeing.generation if seeing is not None else read_generation(checkpoint.raw_config, checkpoint.path)
    if cannot_describe(checkpoint, generation) is not None:
        return False
    options = {ACCURACY_CONFIG: str(ACCURACY_LEVEL)} if has_blocks and operators is Operators.STANDARD else {}
    model = _describe_model(checkpoint, generation, graph, inputs, options)
    if seeing is not None:
        model |= {"type": seeing.model_type, **seeing.fields}
        model["decoder"]["hidden_size"] = seeing.width
    content = {"model": model, "search": _describe_search(checkpoint, generation, operators)}
    (folder / GENAI_CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return True


def cannot_describe(checkpoint: Checkpoint, generation: Mapping[str, Any] | None = None) -> str | None:
    """Return why no genai_config.json can describe a model, as a clause; None if one can.

    Args:
        checkpoint: Checkpoint of the decoder.
        generation: From `read_generation`, of the vision-language model whose decoder it is; by default its own.

    Raises:
        ModelError: generation_config.json is damaged.
    """
    if generation is None:
        generation = read_generation(checkpoint.raw_config, checkpoint.path)
    if generation.get("eos_token_id") is None:
        return "the model has no eos_token_id"
    growing = {tensor.axes for tensor in cache_tensors(checkpoint.config, checkpoint.widths) if not tensor.is_state}
    # `ConvKeyValueCache`, src/models/io/conv_kv_cache.cpp of 0.18, makes all keys and values of one size
    if isinstance(checkpoint.config.architecture.mixer, ShortConvolution) and len(growing) > 1:
        return "its layers keep different numbers of key/value heads, beside layers with convolutions"
    return None


def read_generation(raw_config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of config.json, overridden by generation_config.json, such as `eos_token_id`.

    Raises:
        ModelError: generation_config.json is damaged.
    """
    # a resized checkpoint nests the dense model's config in its own
    described = raw_config.get("dense", raw_config)
    return {**described, **_read_generation_config(path)}


def _describe_model(
    checkpoint: Checkpoint,
    generation: Mapping[str, Any],
    graph: str,
    inputs: Collection[str],
    session_options: Mapping[str, str],
) -> dict[str, Any]:
    config = checkpoint.config
    states = sorted({tensor.part for tensor in cache_tensors(config, checkpoint.widths) if tensor.is_state})
    model_type = _model_type(config)
    end = generation["eos_token_id"]
    tokens = {
        "bos_token_id": generation.get("bos_token_id"),
        "eos_token_id": end,
        "pad_token_id": generation.get("pad_token_id"),
    }
    return {
        "type": model_type,
        **{name: token for name, token in tokens.items() if token is not None},
        "vocab_size": config.vocab_size,
        "context_length": _context(checkpoint),
        "decoder": {
            "filename": graph,
            # no number of threads: the machine that loads the file decides
            "session_options": {"provider_options": [], **session_options},
            "head_size": config.head_dim,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            # those of layers that differ are read from the graph's inputs
            "num_attention_heads": max(widths.query_heads for widths in checkpoint.widths),
            "num_key_value_heads": max(widths.key_value_heads for widths in checkpoint.widths),
            "inputs": {
                **{name: name for name in _INPUTS if name in inputs},
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
                **{f"past_{_STATES[state]}_names": f"past_{state}.%d" for state in states},
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
                **{f"present_{_STATES[state]}_names": f"present_{state}.%d" for state in states},
            },
            **({"layer_types": _layer_types(config)} if model_type == _WITH_CONVOLUTIONS else {}),
        },
    }


def _model_type(config: ModelConfig) -> str:
    if isinstance(config.architecture.mixer, ShortConvolution):
        return _WITH_CONVOLUTIONS
    model_type = config.architecture.model_type
    return model_type if model_type in _KNOWN_TYPES else _ANY_DECODER


def _layer_types(config: ModelConfig) -> list[str]:
    """Return what each layer caches: keys and values, or the state of a convolution."""
    return ["full_attention" if site.stack.attention is not None else "conv" for site in config.sites]


def _describe_search(checkpoint: Checkpoint, generation: Mapping[str, Any], operators: Operators) -> dict[str, Any]:
    chosen = {name: generation[name] for name in _SEARCH_FIELDS if generation.get(name) is not None}
    # other operators return the KV cache in a new buffer of exactly its length
    shares = operators is Operators.ONNXRUNTIME
    return {"max_length": _context(checkpoint), "past_present_share_buffer": shares, **chosen}


def _context(checkpoint: Checkpoint) -> int:
    """Return the longest text that is written with one KV cache."""
    config = checkpoint.config
    return config.cache_limit or config.context


def _read_generation_config(path: Path) -> dict[str, Any]:
    file = path / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        content = parse_json(read_text(file, error=ModelError), source=str(file), error=ModelError)
        fields = convert(content, dict[str, Any], source=str(file), error=ModelError)
    except ModelError as problem:
        raise ModelError(f"{problem}\nFix or remove it; it is optional.") from problem
    return {name: value for name, value in fields.items() if value is not None}
