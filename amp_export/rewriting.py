"""The config under which a plain `from_pretrained` loads the pruned weights."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amp_export.architectures import Architecture, DecoderConfig, LayerWidths, find_architecture
from amp_export.errors import PlanError


class RewriteKind(enum.StrEnum):
    """What a rewrite may be, in order of preference."""

    SAME_CLASS = "same class"
    SIBLING_CLASS = "sibling class"


@dataclass(frozen=True)
class Rewrite:
    """How the pruned model is expressed.

    Attributes:
        kind: What kind of rewrite it is.
        architecture: The architecture of the pruned checkpoint.
        config: The content of its config.json.
        reason: Why this kind was needed.
    """

    kind: RewriteKind
    architecture: Architecture
    config: Mapping[str, Any]
    reason: str


def rewrite(raw_config: Mapping[str, Any], config: DecoderConfig, widths: Sequence[LayerWidths]) -> Rewrite:
    """Finds the config that says these widths; nothing given is changed.

    Args:
        raw_config: The content of the dense model's config.json.
        config: The same, understood.
        widths: What each layer keeps.

    Raises:
        PlanError: No stock class can say it.
    """
    if len(set(widths)) != 1:
        raise PlanError(
            "The layers of the plan keep different counts, which no stock config can say.\n"
            "Give every layer the same counts."
        )
    problem = find_problem(config, widths[0])
    if problem is None:
        reason = f"{config.architecture.class_name} can say these counts"
        return Rewrite(
            RewriteKind.SAME_CLASS,
            config.architecture,
            {**raw_config, **_counts(config, widths[0])},
            reason,
        )
    architecture, sets = _find_sibling(raw_config, config, widths[0], problem)
    return Rewrite(
        RewriteKind.SIBLING_CLASS,
        architecture,
        {**_translate(raw_config, config, architecture), **sets, **_counts(config, widths[0])},
        f"{problem}; {architecture.class_name} computes the same and does not",
    )


def find_problem(config: DecoderConfig, widths: LayerWidths) -> str | None:
    """Why the model's own class cannot say these widths, or None where it can.

    Source: `LlamaConfig.validate_architecture`, transformers 5.23.
    """
    architecture = config.architecture
    remainder = config.hidden_size % widths.query_heads
    if architecture.hidden_size_divisible_by_heads and remainder:
        return (
            f"{architecture.class_name} refuses {widths.query_heads} heads: "
            f"{config.hidden_size} % {widths.query_heads} = {remainder}"
        )
    return None


def is_expressible(raw_config: Mapping[str, Any], config: DecoderConfig, widths: LayerWidths) -> bool:
    """Whether some stock class can say these widths."""
    try:
        rewrite(raw_config, config, [widths])
    except PlanError:
        return False
    return True


def _find_sibling(
    raw_config: Mapping[str, Any], config: DecoderConfig, widths: LayerWidths, problem: str
) -> tuple[Architecture, Mapping[str, Any]]:
    fields = {**config.architecture.defaults, **raw_config}
    refusals = []
    for sibling in config.architecture.siblings:
        unmet = [
            f"{name}={fields.get(name)!r}" for name, value in sibling.requires.items() if fields.get(name) != value
        ]
        if not unmet:
            return find_architecture(sibling.model_type), sibling.sets
        refusals.append(f"{sibling.model_type} has no {' or '.join(unmet)}")
    legal = [
        heads
        for heads in range(config.num_attention_heads, 0, -1)
        if find_problem(config, LayerWidths(heads, widths.key_value_heads, widths.neurons)) is None
    ]
    raise PlanError(
        f"{problem}, and no other stock class computes the same{''.join(f' ({refusal})' for refusal in refusals)}.\n"
        f"Head counts that {config.architecture.class_name} can say: {', '.join(map(str, legal))}."
    )


def _translate(raw_config: Mapping[str, Any], config: DecoderConfig, sibling: Architecture) -> dict[str, Any]:
    """The config as the sibling reads it: what it would assume otherwise is spelled out, what it lacks is dropped."""
    source = config.architecture
    assumed = {name: value for name, value in source.defaults.items() if name in sibling.defaults and value is not None}
    lacking = source.defaults.keys() - sibling.defaults.keys()
    return {
        **assumed,
        **{name: value for name, value in raw_config.items() if name not in lacking},
        "model_type": sibling.model_type,
        "architectures": [sibling.class_name],
    }


def _counts(config: DecoderConfig, widths: LayerWidths) -> dict[str, int]:
    return {
        "num_attention_heads": widths.query_heads,
        "num_key_value_heads": widths.key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": widths.neurons,
    }
