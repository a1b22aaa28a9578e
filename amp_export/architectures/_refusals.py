"""Checks of config fields that the facts of a family rule out; every command refuses them with the same words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from amp_export.architectures._facts import Architecture, Kind, Modality
from amp_export.architectures._layer_rules import refuse_none
from amp_export.documents import shorten
from amp_export.errors import ModelError, UnsupportedModelError

_ROPE_TYPE = {"rope_type", "type"}

_SEVERAL = {"image_size", "patch_size", "intermediate_size"}
"""Fields that are a number, or height and width (`ViTConfig`), or one for each layer (`Gemma3nTextConfig`): 5.24."""

_LACKING = {
    True: ("experts", "Only neurons of experts are removed."),
    False: ("an MLP whose neurons can be removed", "Use a checkpoint of which some layers have one."),
}
"""What is missing if no layer has the MLP that is pruned, by whether it has experts, and what to do."""

_TASKS: Mapping[Modality, tuple[str, ...]] = {
    Modality.TEXT: (
        "ForMaskedLM",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForPreTraining",
        "ForNextSentencePrediction",
        "Model",
    ),
    Modality.IMAGE: ("ForImageClassification", "Model"),
    Modality.AUDIO: ("ForCTC", "ForSequenceClassification", "Model"),
}
"""Ends of the supported encoder classes' names. Multiple choice is none of them: it takes texts in three dimensions."""


def supported_classes(architecture: Architecture) -> tuple[str, ...]:
    """Return the names of the supported classes of a family, of which transformers may lack some.

    Decoders are compared and run by their next-token logits, and encoder-decoders by both of their stacks, so that only
    the class that has those is supported.
    """
    default = architecture.class_name
    if architecture.kind is not Kind.ENCODER or default.endswith("Model"):
        return (default, *architecture.more_classes)
    family = default.partition("For")[0]
    names = [f"{family}{task}" for task in _TASKS[architecture.modality]]
    return tuple(dict.fromkeys((default, *names, *architecture.more_classes)))


def refuse_class(class_name: str, architecture: Architecture) -> None:
    """Raise an error for a class that is not supported.

    Raises:
        UnsupportedModelError: It is not; the message names those that are.
    """
    supported = supported_classes(architecture)
    if class_name not in supported:
        raise UnsupportedModelError(
            f"config.json: the class {class_name} (architectures) is not supported for {architecture.model_type}.\n"
            f"Supported: {', '.join(supported)}. If the weights are those of such a class, name it in config.json."
        )


def refuse_types(config: Mapping[str, Any], architecture: Architecture) -> None:
    """Raise an error for a field whose value is of another type than the family's default, or not finite.

    Args:
        config: The content of a config.json.
        architecture: The facts of the family.

    Raises:
        ModelError: There is such a field.
    """
    for name, default in architecture.defaults.items():
        value = config.get(name)
        if value is None or default is None:
            continue
        what, is_right = next((what, check) for types, what, check in _TYPES if isinstance(default, types))
        if name in _SEVERAL and isinstance(value, list) and all(map(_is_number, value)):
            continue
        if not is_right(value):
            raise ModelError(_wrong_type(name, value, f"{what} is expected, such as {default!r}"))
    for name in ("rope_scaling", "rope_parameters"):
        _refuse_rope(name, config.get(name))


def _refuse_rope(name: str, rope: Any) -> None:
    """Raise ModelError for parameters of RoPE that are no numbers; they may be nested by layer type."""
    if rope is None:
        return
    if not isinstance(rope, Mapping):
        raise ModelError(_wrong_type(name, rope, "a table is expected"))
    for key, value in rope.items():
        if isinstance(value, Mapping):
            _refuse_rope(f"{name}.{key}", value)
        elif key in _ROPE_TYPE:
            if not isinstance(value, str):
                raise ModelError(_wrong_type(f"{name}.{key}", value, "a text is expected, such as 'yarn'"))
        elif isinstance(value, list):
            if not all(map(_is_number, value)):
                raise ModelError(_wrong_type(f"{name}.{key}", value, "numbers are expected"))
        elif value is not None and not isinstance(value, bool) and not _is_number(value):
            raise ModelError(_wrong_type(f"{name}.{key}", value, "a number is expected"))


def _wrong_type(name: str, value: Any, expected: str) -> str:
    found = shorten(repr(value))
    return (
        f"config.json: {name} is {found}, where {expected}.\nCorrect it, or use a checkpoint that transformers loads."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# a bool is an int in Python, so it comes first
_TYPES: tuple[tuple[Any, str, Callable[[Any], bool]], ...] = (
    (bool, "true or false", lambda value: isinstance(value, bool)),
    ((int, float), "a number", _is_number),
    (str, "a text", lambda value: isinstance(value, str)),
    (Mapping, "a table", lambda value: isinstance(value, Mapping)),
    ((list, tuple), "a list", lambda value: isinstance(value, list | tuple)),
)


def refuse_values(fields: Mapping[str, Any], architecture: Architecture) -> None:
    """Raise an error for values that the facts refuse, or that differ from the only supported ones.

    Raises:
        UnsupportedModelError: There is such a value.
    """
    for name, values in architecture.refused.items():
        if fields[name] in values:
            raise UnsupportedModelError(_unsupported(name, fields[name], architecture))
    for name, value in architecture.required.items():
        if fields.get(name, value) != value:
            only = f"\nSupported: {name} = {value!r}."
            raise UnsupportedModelError(_unsupported(name, fields[name], architecture) + only)


def _unsupported(name: str, value: Any, architecture: Architecture) -> str:
    return f"config.json: {name} is {value!r}, which is not supported for {architecture.model_type}."


def refuse_sizes(fields: Mapping[str, Any], sizes: Mapping[str, int], architecture: Architecture) -> None:
    """Raise an error for sizes that contradict each other, or that transformers refuses.

    Raises:
        ModelError: They do; the message says how to load the weights in another class, if there is one.
        UnsupportedModelError: No layer attends, or none has experts, in a family whose other layers stay.
    """
    heads, groups, hidden = (sizes[name] for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if heads % groups:
        raise ModelError(
            f"config.json: num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({groups})."
        )
    if hidden % heads and (architecture.hidden_size_divisible_by_heads or architecture.says_head_dim_when is None):
        raise ModelError(
            f"config.json: hidden_size ({hidden}) is not a multiple of num_attention_heads ({heads}), without which "
            f"transformers does not load a {architecture.model_type}.{_sibling_advice(fields, architecture)}"
        )
    for rule, part, advice in (
        (architecture.attention_layers, "attention", "Only models with layers that attend are supported."),
        (architecture.mlp_layers, *_LACKING[architecture.mlp.has_experts]),
    ):
        refuse_none(rule, fields, sizes["num_hidden_layers"], part=part, advice=advice)
    padding, vocabulary = fields.get("pad_token_id"), sizes.get("vocab_size")
    if architecture.embeds_padding and isinstance(padding, int) and vocabulary is not None:
        _refuse_padding(padding, vocabulary, architecture)


def _refuse_padding(padding: int, vocabulary: int, architecture: Architecture) -> None:
    # as `torch.nn.Embedding` does with its `padding_idx`
    if not -vocabulary <= padding < vocabulary:
        raise ModelError(
            f"config.json: pad_token_id ({padding}) is beyond vocab_size ({vocabulary}), with which transformers does "
            f"not load a {architecture.model_type}.\nSet pad_token_id to a token of the vocabulary, such as "
            "eos_token_id; or, if a token was added, resize the embedding of the model: resize_token_embeddings()."
        )


def _sibling_advice(fields: Mapping[str, Any], architecture: Architecture) -> str:
    """Return how to load the weights in a class that takes any number of heads, if one computes the same."""
    import importlib

    for sibling in architecture.siblings:
        if all(fields.get(name) == value for name, value in sibling.requires.items()):
            other = importlib.import_module(f"amp_export.architectures.{sibling.model_type}").ARCHITECTURE
            sets = {"model_type": other.model_type, "architectures": [other.class_name], **sibling.sets}
            lines = ", ".join(f"{name} = {value!r}" for name, value in sets.items())
            return (
                f"\nA {other.class_name} computes the same and takes any number of heads: set {lines} in config.json."
            )
    return "\nUse a checkpoint whose heads divide its hidden size."
