"""Layouts of an exported folder: the names and places by which a library looks for its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind
from amp_export.checkpoints.older_versions import TOKENIZER_CONFIG
from amp_export.documents import read_object, read_text
from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.exporters.files import MERGED_DECODER, MODEL, SUBFOLDER, data_name
from amp_export.exporters.onnx.external_data import move_data
from amp_export.exporters.onnx.genai import GENAI_CONFIG
from amp_export.exporters.onnx.genai_vision import EMBEDDING, PROCESSOR_CONFIG
from amp_export.options import Dtype, Layout, WeightFormat

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig
    from amp_export.exporters.onnx.parts import PartsOf
    from amp_export.exporters.onnx.quantization import Quantization

_DTYPES: Mapping[tuple[Dtype, WeightFormat | None], tuple[str, str]] = {
    (Dtype.FLOAT32, None): ("fp32", ""),
    (Dtype.FLOAT16, None): ("fp16", "_fp16"),
    (Dtype.FLOAT32, WeightFormat.INT8): ("q8", "_quantized"),
    (Dtype.FLOAT32, WeightFormat.INT4): ("q4", "_q4"),
    (Dtype.FLOAT16, WeightFormat.INT4): ("q4f16", "_q4f16"),
}
"""The name of a dtype in transformers.js, and what it adds to the name of a graph. Source:
`DEFAULT_DTYPE_SUFFIX_MAPPING`, src/utils/dtypes.js of transformers.js 4.3.2."""

DECODERS = frozenset(
    {
        *("apertus", "arcee", "bloom", "cohere", "cohere2", "deepseek_v3", "ernie4_5", "falcon_h1"),
        *("gemma", "gemma2", "gemma3_text", "glm", "gpt2", "gpt_neox", "gpt_oss", "gptj", "granite"),
        *("granitemoehybrid", "helium"),
        *("hunyuan_v1_dense", "lfm2", "llama", "ministral", "ministral3", "mistral", "mistral4", "mpt", "olmo2"),
        *("olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm"),
        *("starcoder2",),
    }
)
"""Types of decoders that transformers.js 4.3.2 has classes for, and that wrote the same text there
(`ci/transformers_js.py`)."""

VISION_LANGUAGE = frozenset(
    {"idefics3", "llava", "llava_onevision", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"}
)
"""Types of vision-language models that transformers.js 4.3.2 has classes for, and whose parts it runs as they are here:
src/models/registry.js. It has none for InternVL, and gives no types of tokens to the decoder of a Gemma 3."""

_BESIDE_TEXT_CONFIG = {
    "qwen2_vl": ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim")
}
"""Fields of `text_config` that transformers.js 4.3.2 looks for beside it, to know the KV cache: configs of that type
were flat once. Source: `getNormalizedConfig`, src/configs.js."""

_FLOAT16_CACHES = {"fp16": "float16", "q4f16": "float16"}
"""Dtypes of the KV cache, which 4.0 to 4.2 do not read from the graph. Source: src/models/session.js of 4.0.0."""


def check_layout(
    config: ModelConfig,
    layout: Layout,
    dtype: Dtype,
    quantization: Quantization | None,
    parts: PartsOf | None = None,
) -> None:
    """Refuse an export that the library of a layout does not run.

    Args:
        config: Config of the exported checkpoint.
        layout: The layout.
        dtype: Dtype of the graph.
        quantization: Format of its weights; None if they have its dtype.
        parts: The vision-language model whose parts are exported, or None.

    Raises:
        RequestError: The library has no name for the dtype.
        UnsupportedModelError: It does not run the model.
    """
    if layout is Layout.FLAT:
        return
    model_type, kind = config.architecture.model_type, config.architecture.kind
    reason = None
    if parts is not None:
        model_type = read_object(parts.whole / "config.json")["model_type"]
        if model_type not in VISION_LANGUAGE:
            reason = f"does not run vision-language models of the type {model_type} as they are exported here"
    elif kind is Kind.ENCODER_DECODER:
        reason = "takes the decoder of an encoder-decoder as one graph, and here it is two"
    elif kind is Kind.DECODER and model_type not in DECODERS:
        reason = f"does not run decoders of the type {model_type} as they are exported here"
    if reason is not None:
        raise UnsupportedModelError(
            f"transformers.js 4 {reason}.\nLeave --layout out, and run the graph with onnxruntime-node or "
            "onnxruntime-web."
        )
    if (dtype, weights := quantization.weights if quantization is not None else None) not in _DTYPES:
        stored = f"--dtype {dtype}" + (f" with --weights {weights}" if weights is not None else "")
        raise RequestError(
            f"transformers.js has no name for a graph in {stored}.\nGive --dtype float32 or float16, --weights int8 or "
            "int4, or both --dtype float16 and --weights int4."
        )


def arrange(
    folder: Path, layout: Layout, dtype: Dtype, quantization: Quantization | None, *, in_parts: bool = False
) -> None:
    """Give the files of a finished export the names and places of a layout.

    transformers.js reads config.json and the tokenizer in the folder, and `onnx/model_DTYPE.onnx` with its weights in
    `onnx/model_DTYPE.onnx_data` below it. Chat templates must be in tokenizer_config.json. A pruned model whose layers
    differ in width has its dense model's config, as transformers.js 4.3 takes the shapes of KV caches from the graph.
    Source: `getSession`, src/models/session.js; `addPastKeyValues`, src/models/modeling_utils.js of 4.3.2.

    Args:
        folder: Folder of an export of one graph, or of the parts of a vision-language model, with all files in it.
        layout: The layout, which `check_layout` accepted.
        dtype: Dtype of the graph.
        quantization: Format of its weights, or of the decoder's; None if they have its dtype.
        in_parts: Whether it holds the parts of a vision-language model.
    """
    if layout is Layout.FLAT:
        return
    weights = quantization.weights if quantization is not None else None
    if in_parts:
        # the name of shared weights is in one of them
        for name in (EMBEDDING, PROCESSOR_CONFIG, GENAI_CONFIG):
            (folder / name).unlink(missing_ok=True)
        others = {each.stem: None for each in folder.glob("*.onnx") if each.stem != MERGED_DECODER}
        named = {MERGED_DECODER: weights, **others}
        _describe(folder, {part: _move(folder, part, dtype, each)[0] for part, each in named.items()})
        _move_template(folder)
        return
    name, graph = _move(folder, MODEL, dtype, weights)
    _describe(folder, name)
    _move_template(folder)
    if (file := folder / GENAI_CONFIG).is_file():
        content = read_object(file)
        content["model"]["decoder"]["filename"] = graph.relative_to(folder).as_posix()
        _write(file, content)


def _move(folder: Path, part: str, dtype: Dtype, weights: WeightFormat | None) -> tuple[str, Path]:
    """Move a graph and its weights, and return its dtype in transformers.js and its new place."""
    name, suffix = _DTYPES[dtype, weights]
    graph, moved = folder / f"{part}.onnx", folder / SUBFOLDER / f"{part}{suffix}.onnx"
    move_data(graph, moved, {data_name(graph).name: data_name(moved).name})
    return name, moved


def _describe(folder: Path, dtype: str | Mapping[str, str]) -> None:
    """Write into config.json what transformers.js needs to open the graph without options.

    Args:
        folder: Folder of the export.
        dtype: The dtype of its graph, or those of its graphs by name.
    """
    raw = read_object(folder / "config.json")
    content = raw.get("dense", raw)
    # for those who read the widths without the graph, such as benchmarks
    content |= {"layer_widths": raw["layer_widths"]} if "layer_widths" in raw else {}
    text = content.get("text_config") or {}
    beside = {name: text[name] for name in _BESIDE_TEXT_CONFIG.get(content["model_type"], ()) if name in text}
    settings = {"dtype": dtype, "use_external_data_format": True, "kv_cache_dtype": _FLOAT16_CACHES}
    _write(folder / "config.json", {**beside, **content, "transformers.js_config": settings})


def _move_template(folder: Path) -> None:
    """Copy the chat template into tokenizer_config.json: `PreTrainedTokenizer`, src/tokenization_utils.js of 4.3.2."""
    file, template = folder / TOKENIZER_CONFIG, folder / "chat_template.jinja"
    if file.is_file() and template.is_file():
        _write(file, {**read_object(file), "chat_template": read_text(template)})


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
