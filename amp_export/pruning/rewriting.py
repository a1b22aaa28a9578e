"""The config under which `from_pretrained` loads the pruned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from amp_export.architectures import (
    RESIZED_MODEL_TYPE,
    Architecture,
    LayerWidths,
    ModelConfig,
    find_architecture,
    resized_modules,
    with_fields,
)
from amp_export.errors import PlanError, UnsupportedModelError
from amp_export.outputs.manifest import RewriteKind

MODELING_FILE = "modeling_amp"
"""Module that is saved with a resized checkpoint, and that its config.json names."""


GENERATION_FIELDS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "use_cache"),
)
"""Fields that `generate` reads from config.json where there is no generation_config.json: `from_pretrained`,
generation/configuration_utils.py, transformers 5.24. A resized config nests the dense one, where it does not look.
`modeling_amp` has the same."""


@dataclass(frozen=True)
class Rewrite:
    """Class and config of the pruned checkpoint.

    Attributes:
        kind: Kind of rewrite.
        architecture: Architecture of the pruned checkpoint.
        class_name: Class that loads it.
        config: Content of its config.json.
        widths: Widths of each layer; larger than in the plan if layers are padded.
        reason: Reason for this kind of rewrite.
    """

    kind: RewriteKind
    architecture: Architecture
    class_name: str
    config: Mapping[str, Any]
    widths: tuple[LayerWidths, ...]
    reason: str

    @property
    def is_stock(self) -> bool:
        """Whether plain transformers loads it, without the modeling file."""
        return self.kind is not RewriteKind.RESIZED_CLASS


def rewrite(
    raw_config: Mapping[str, Any], config: ModelConfig, widths: Sequence[LayerWidths], *, pad: bool = False
) -> Rewrite:
    """Return a class and config that express these widths; the arguments are not changed.

    Args:
        raw_config: Content of the dense model's config.json.
        config: The parsed config.
        widths: Widths that each layer keeps.
        pad: Zero-pad all layers to widths that a stock config can express, if none can express the given ones.

    Raises:
        PlanError: The heads cannot be zero-padded.
        UnsupportedModelError: The layers of the checkpoint are already resized.
    """
    _refuse_resized(raw_config)
    # code next to the dense checkpoint is not copied, so the pruned config must not name it
    raw_config = {name: value for name, value in raw_config.items() if name != "auto_map"}
    problem = find_problem(config, widths)
    if problem is None:
        return _same_class(raw_config, config, widths)
    if (found := _find_sibling(raw_config, config, widths)) is not None:
        return _sibling_class(raw_config, config, widths, *found, problem)
    if pad:
        return _padded(raw_config, config, widths, problem)
    return _resized_class(raw_config, config, widths, problem)


def find_problem(config: ModelConfig, widths: Sequence[LayerWidths]) -> str | None:
    """Return why the model's own class cannot express these widths, or None if it can.

    Source: `LlamaConfig.validate_architecture`, transformers 5.23, and the attention classes of the others.
    """
    name = config.class_name
    common = config.common_widths(widths)
    if common is None:
        return f"{name} supports one width for all layers, but the plan has {len(set(widths))}"
    if common.neurons != config.intermediate_size and not _says_neurons(config):
        return f"{name} takes the number of neurons from elsewhere, so that all {config.intermediate_size} stay"
    return None if common.query_heads == config.num_attention_heads else _find_heads_problem(config, common.query_heads)


def _find_heads_problem(config: ModelConfig, heads: int) -> str | None:
    """Return why the model's own class cannot express this number of heads in all layers, or None if it can."""
    architecture, name = config.architecture, config.class_name
    conditions = architecture.says_head_dim_when
    if conditions is None:
        return (
            f"{name} takes the width of a head from the number of heads, so that all {config.num_attention_heads} stay"
        )
    if not config.meets(conditions):
        unmet = ", ".join(f"{field}={config.fields[field]!r}" for field in conditions)
        return f"{name} with {unmet} takes the width of a head from the number of heads"
    remainder = config.hidden_size % heads
    if architecture.hidden_size_divisible_by_heads and remainder:
        return f"{name} refuses {heads} heads: {config.hidden_size} % {heads} = {remainder}"
    return None


def _says_neurons(config: ModelConfig) -> bool:
    conditions = config.architecture.says_neurons_when
    return conditions is not None and config.meets(conditions)


def is_stock(raw_config: Mapping[str, Any], config: ModelConfig, widths: LayerWidths) -> bool:
    """Return whether a stock class can express these widths in every layer."""
    _refuse_resized(raw_config)
    everywhere = config.everywhere(widths)
    return find_problem(config, everywhere) is None or _find_sibling(raw_config, config, everywhere) is not None


def _refuse_resized(raw_config: Mapping[str, Any]) -> None:
    if raw_config.get("model_type") == RESIZED_MODEL_TYPE:
        raise UnsupportedModelError(
            f"The layers of this checkpoint have widths of their own already ({RESIZED_MODEL_TYPE}), and it cannot be "
            "pruned again.\nPrune the dense model that it was made from, by a larger ratio."
        )


def _same_class(raw_config: Mapping[str, Any], config: ModelConfig, widths: Sequence[LayerWidths]) -> Rewrite:
    return Rewrite(
        RewriteKind.SAME_CLASS,
        config.architecture,
        config.class_name,
        with_fields(
            raw_config, {**_counts(config, config.architecture, widths), **_settings(raw_config, config, widths)}
        ),
        tuple(widths),
        f"{config.class_name} can say these counts",
    )


def _find_sibling(
    raw_config: Mapping[str, Any], config: ModelConfig, widths: Sequence[LayerWidths]
) -> tuple[Architecture, Mapping[str, Any]] | None:
    """Return a class that computes the same and can express these widths, and the config fields to set for it."""
    if config.common_widths(widths) is None:
        return None
    fields = {**config.architecture.defaults, **raw_config}
    for sibling in config.architecture.siblings:
        if all(fields.get(name) == value for name, value in sibling.requires.items()):
            return find_architecture(sibling.model_type), sibling.sets
    return None


def _sibling_class(
    raw_config: Mapping[str, Any],
    config: ModelConfig,
    widths: Sequence[LayerWidths],
    sibling: Architecture,
    sets: Mapping[str, Any],
    problem: str,
) -> Rewrite:
    return Rewrite(
        RewriteKind.SIBLING_CLASS,
        sibling,
        sibling.class_name,
        {**_translate(raw_config, config, sibling), **sets, **_counts(config, sibling, widths)},
        tuple(widths),
        f"{problem}; {sibling.class_name} computes the same and does not",
    )


def _resized_class(
    raw_config: Mapping[str, Any], config: ModelConfig, widths: Sequence[LayerWidths], problem: str
) -> Rewrite:
    task = config.task
    content = {
        **{name: raw_config[name] for name in GENERATION_FIELDS if raw_config.get(name) is not None},
        "model_type": RESIZED_MODEL_TYPE,
        "architectures": [f"AmpResized{task}"],
        "auto_map": {
            "AutoConfig": f"{MODELING_FILE}.AmpResizedConfig",
            f"AutoModel{task}": f"{MODELING_FILE}.AmpResized{task}",
        },
        "dtype": config.dtype,
        "dense_class": config.class_name,
        "dense": {**raw_config, "model_type": config.architecture.model_type},
        "layer_widths": [asdict(layer) for layer in widths],
        "resized_modules": resized_modules(config, widths),
    }
    reason = f"{problem}; {MODELING_FILE}.py, saved with the checkpoint, resizes the layers when it is loaded"
    return Rewrite(RewriteKind.RESIZED_CLASS, config.architecture, config.class_name, content, tuple(widths), reason)


def _padded(raw_config: Mapping[str, Any], config: ModelConfig, widths: Sequence[LayerWidths], problem: str) -> Rewrite:
    spanning = [tensor.name for tensor in config.architecture.attention.tensors if tensor.spans_heads]
    if spanning and len({(layer.query_heads, layer.key_value_heads) for layer in widths}) > 1:
        raise PlanError(
            f"Heads cannot be filled up with zeros here: {', '.join(spanning)} normalise over all heads of a layer, "
            "and zeros would change what they divide by.\nLeave --uniform pad out, or use --heads-per-layer uniform."
        )
    widest = _widest(widths)
    if not _says_neurons(config):
        widest = replace(widest, neurons=config.intermediate_size)
    if find_problem(config, config.everywhere(widest)) is not None:
        # the class cannot express fewer heads, so pad to all of them
        dense = config.widths
        widest = LayerWidths(dense.query_heads, dense.key_value_heads, widest.neurons)
    padded = _same_class(raw_config, config, config.everywhere(widest))
    return Rewrite(
        RewriteKind.PADDED,
        padded.architecture,
        padded.class_name,
        padded.config,
        padded.widths,
        f"{problem}; layers are filled up with zeros to {widest.query_heads} query heads, {widest.key_value_heads} "
        f"key/value heads and {widest.neurons} neurons",
    )


def _widest(widths: Sequence[LayerWidths]) -> LayerWidths:
    """Return the smallest widths that every layer fits into, group by group."""
    key_value_heads = max(layer.key_value_heads for layer in widths)
    group = max(layer.query_group for layer in widths)
    neurons = max(layer.neurons for layer in widths)
    return LayerWidths(key_value_heads * group, key_value_heads, neurons)


def _translate(raw_config: Mapping[str, Any], config: ModelConfig, sibling: Architecture) -> dict[str, Any]:
    """Return the config for the sibling class: fields with another default are written, unknown ones are dropped."""
    source = config.architecture
    assumed = {name: value for name, value in source.defaults.items() if name in sibling.defaults and value is not None}
    lacking = source.defaults.keys() - sibling.defaults.keys()
    return {
        **assumed,
        **{name: value for name, value in raw_config.items() if name not in lacking},
        "model_type": sibling.model_type,
        "architectures": [sibling.class_name],
    }


def _settings(raw_config: Mapping[str, Any], config: ModelConfig, widths: Sequence[LayerWidths]) -> dict[str, Any]:
    """Return the other names of counts that a config has, and what must be set for the number of neurons to count."""
    common = config.common_widths(widths)
    assert common is not None
    counts = {"intermediate_size": common.neurons, "num_attention_heads": common.query_heads}
    aliases = {
        name: counts[canonical]
        for name, canonical in config.architecture.aliases.items()
        if name in raw_config and canonical in counts
    }
    return {**aliases, **config.architecture.set_with_neurons}


def _counts(config: ModelConfig, architecture: Architecture, widths: Sequence[LayerWidths]) -> dict[str, int]:
    """Return the counts under the family's field names; counts without a field follow from the others."""
    common = config.common_widths(widths)
    assert common is not None
    counts = {
        "num_attention_heads": common.query_heads,
        "num_key_value_heads": common.key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": common.neurons,
    }
    keeps_heads = common.query_heads == config.num_attention_heads
    if keeps_heads and architecture.field_name("head_dim") not in architecture.defaults:
        del counts["head_dim"]
    named = {architecture.field_name(canonical): count for canonical, count in counts.items()}
    for stack in architecture.stacks:
        named |= {stack.names[canonical]: count for canonical, count in counts.items() if canonical in stack.names}
    return {name: count for name, count in named.items() if name is not None}
