"""Reject quantized checkpoints, adapters and unknown config fields, with advice on how to convert them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amp_export.architectures import RESIZED_MODEL_TYPE, Architecture, first_class, flatten_parts
from amp_export.architectures._facts import MAY_BE_IGNORED
from amp_export.checkpoints.weight_files import INDEX, SINGLE
from amp_export.documents import parse_json, read_text
from amp_export.errors import ModelError, UnsupportedModelError

_CONFIGS = {
    "fp8": "FineGrainedFP8Config",
    "mxfp8": "FineGrainedFP8Config",
    "mxfp4": "Mxfp4Config",
    "compressed-tensors": "CompressedTensorsConfig",
}
"""Quantization methods that transformers can dequantize at load time, and their config classes.

Source: `AUTO_QUANTIZER_MAPPING`, `transformers/quantizers/auto.py`, and the quantizers that read `dequantize`, 5.24.
"""


ADAPTER_CONFIG = "adapter_config.json"

_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""Auto classes by an adapter's `task_type`: `TaskType`, `peft/utils/peft_types.py`, PEFT 0.18."""

_PROMPTS = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"}
)
"""Values of `peft_type` for adapters that change the input instead of the weights and cannot be merged."""


def refuse_adapter(path: Path) -> None:
    """Raise an error for a directory with an adapter, which transformers would apply to its base model.

    Raises:
        UnsupportedModelError: There is an adapter; the message shows code that merges it.
        ModelError: The adapter's config is damaged.
    """
    file = path / ADAPTER_CONFIG
    if not file.is_file():
        return
    adapter = parse_json(read_text(file, error=ModelError), source=str(file), error=ModelError)
    if not isinstance(adapter, dict):
        raise ModelError(f"{file} is not the config of an adapter.\nDownload the adapter again.")
    kind = str(adapter.get("peft_type"))
    base = str(adapter.get("base_model_name_or_path") or "BASE_MODEL")
    shown = kind if kind.isidentifier() else "of an unknown kind"
    found = f"{path} holds an adapter ({shown}) of {base!r}, not a model: it contains {ADAPTER_CONFIG}."
    if kind in _PROMPTS:
        raise UnsupportedModelError(
            f"{found}\nAdapters of this kind change the model's input, not its weights, and cannot be merged.\nPrune "
            f"{base!r} itself."
        )
    raise UnsupportedModelError(
        f"{found}\nMerge it first and use the merged model:\n{_merge_code(path, adapter, base)}\n"
        f"If the weights here are complete without the adapter, remove {ADAPTER_CONFIG}."
    )


def _merge_code(path: Path, adapter: dict[str, Any], base: str) -> str:
    auto_class = _AUTO_CLASSES.get(str(adapter.get("task_type")), "AutoModel")
    # an adapter that adds tokens is saved with its tokenizer
    tokenizer = path if (path / "tokenizer_config.json").is_file() else base
    return "\n".join(
        (
            "  from peft import PeftModel",
            f"  from transformers import {auto_class}, AutoTokenizer",
            f'  model = {auto_class}.from_pretrained({base!r}, dtype="auto")',
            f'  PeftModel.from_pretrained(model, {str(path)!r}).merge_and_unload().save_pretrained("merged")',
            f'  AutoTokenizer.from_pretrained({str(tokenizer)!r}).save_pretrained("merged")',
        )
    )


def refuse_quantized(raw_config: Mapping[str, Any], architecture: Architecture) -> None:
    """Raise an error for the config of a quantized checkpoint.

    Raises:
        UnsupportedModelError: It is quantized; the message shows code that dequantizes it.
    """
    if quantization := raw_config.get("quantization_config") or raw_config.get("compression_config"):
        class_name = first_class(raw_config.get("architectures"), architecture)
        raise UnsupportedModelError(explain_quantization(quantization, class_name))


def refuse_named_weights(file: Path, raw_config: Mapping[str, Any]) -> None:
    """Raise an error for a config that names a file of weights, which transformers would read instead of the usual.

    Raises:
        UnsupportedModelError: It names one.
    """
    # `transformers_explicit_filename` in `modeling_utils.py`, transformers 5.24
    if (name := raw_config.get("transformers_weights")) is not None:
        raise UnsupportedModelError(
            f"{file}: transformers_weights is {name!r}, but only weights in {SINGLE}, or in the shards of {INDEX}, are "
            "read.\nLoad the model with transformers and save it with save_pretrained(), which writes these."
        )


def refuse_removed_heads(file: Path, raw_config: Mapping[str, Any]) -> None:
    """Raise an error for a config that lists heads to remove from single layers as the model is loaded.

    transformers 4 removes them again from what this package writes; version 5 ignores them. Source: `pruned_heads`,
    `PretrainedConfig`, transformers 4.57.

    Raises:
        UnsupportedModelError: It lists any.
    """
    if removed := raw_config.get("pruned_heads"):
        raise UnsupportedModelError(
            f"{file}: pruned_heads is {removed!r}: transformers 4 removes these heads as it loads the model, and "
            "version 5 does not.\nUse the checkpoint from before its heads were removed."
        )


def explain_quantization(quantization: Any, class_name: str) -> str:
    """Return a message that says how to dequantize a checkpoint.

    Args:
        quantization: The value of `quantization_config` in config.json.
        class_name: The transformers class that loads the checkpoint.
    """
    method = _method(quantization)
    found = f"The checkpoint is quantized ({method}), but unquantized weights are needed."
    if method in _CONFIGS:
        config = _CONFIGS[method]
        package = "  # needs pip install compressed-tensors" if method == "compressed-tensors" else ""
        load = (
            f"  from transformers import {class_name}, {config}{package}",
            f'  model = {class_name}.from_pretrained("MODEL", quantization_config={config}(dequantize=True))',
        )
    elif method == "bitsandbytes":
        # only its quantizers define `_dequantize`: `quantizer_bnb_4bit.py`, `quantizer_bnb_8bit.py`, 5.24
        load = (
            f"  from transformers import {class_name}  # needs pip install bitsandbytes",
            f'  model = {class_name}.from_pretrained("MODEL").dequantize()',
        )
    else:
        return (
            f"{found}\nTransformers cannot dequantize {method}: use the original checkpoint, named in its model card."
        )
    lines = (*load, '  model.save_pretrained("plain")')
    return "\n".join((found, "Dequantize it first, copy its tokenizer next to the result, and use that:", *lines))


def _method(quantization: Any) -> str:
    if not isinstance(quantization, Mapping):
        return "unknown method"
    method = quantization.get("quant_method")
    if method is None and (quantization.get("load_in_4bit") or quantization.get("load_in_8bit")):
        # old bitsandbytes configs have no quant_method
        return "bitsandbytes"
    return str(method or "unknown method").lower().replace("_", "-")


def check_known_fields(raw_config: Mapping[str, Any], architecture: Architecture) -> None:
    """Raise an error for a config that sets fields that transformers reads but the family's facts do not list.

    Fields that transformers' config class does not declare are common and harmless. So are fields that are set to
    the class's default.

    Args:
        raw_config: The content of config.json.
        architecture: The facts about its family.

    Raises:
        UnsupportedModelError: There are such fields; the message lists them with their values.
    """
    from transformers import CONFIG_MAPPING, __version__

    from amp_export.checkpoints.quiet import quiet_transformers

    described = raw_config["dense"] if raw_config.get("model_type") == RESIZED_MODEL_TYPE else raw_config
    known = {*architecture.defaults, *architecture.ignored, *MAY_BE_IGNORED, *architecture.names.values()}
    config_class = CONFIG_MAPPING[architecture.model_type]
    with quiet_transformers():  # it warns about some families' defaults
        made = config_class()
    # what a config of several parts says of these is in it alone
    default = flatten_parts(made.to_dict(), architecture.parts)
    declared = {field.name for field in dataclasses.fields(config_class)} - {*architecture.parts} | default.keys()
    unknown = {
        name: value
        for name, value in flatten_parts(described, architecture.parts).items()
        if name in declared - known
        and name.rpartition(".")[2] not in MAY_BE_IGNORED
        and not _same(value, default.get(name, getattr(made, name, None)))
    }
    if unknown:
        fields = ", ".join(f"{name} = {value!r}" for name, value in sorted(unknown.items()))
        raise UnsupportedModelError(
            f"config.json sets fields of {config_class.__name__} (transformers {__version__}) whose effect this "
            f"version of amp-export does not know: {fields}.\nUpdate amp-export; or remove the fields in a copy of "
            "the checkpoint, if they do not change the model."
        )


def _same(value: Any, default: Any) -> bool:
    """Return whether two values are equal; a list from JSON equals a tuple."""
    if isinstance(value, list) and isinstance(default, tuple):
        return value == list(default)
    return bool(value == default)
