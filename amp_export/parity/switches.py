"""The text lengths at which a model starts to compute something else, which parity cases cross."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from amp_export.architectures import Kind, ModelConfig

REACHED = 512
"""Longest switch in tokens that the default cases cross: PyTorch has to compute a text of that length in float64."""

_BY_FIELD: Mapping[Kind, Mapping[str, str]] = {
    Kind.DECODER: {"attention_chunk_size": "attention chunk"},
    Kind.ENCODER: {"local_attention": "local attention"},
    Kind.ENCODER_DECODER: {"relative_attention_max_distance": "largest distance of the position biases"},
}
"""Config fields with a number of tokens, by kind of model; windows of decoders are read by `ModelConfig`.

Source: `ModernBertConfig` (`local_attention` spans both sides), `T5Config` and `Llama4TextConfig`, transformers 5.24.
"""


@dataclass(frozen=True)
class Switch:
    """A length at which a model computes something else.

    Attributes:
        name: What ends there, such as `sliding window`.
        tokens: The last length before.
        keeps_cache: Whether a KV cache stays valid beyond it.
    """

    name: str
    tokens: int
    keeps_cache: bool = True

    @property
    def is_reached(self) -> bool:
        """Whether the default cases cross it."""
        return self.tokens <= REACHED


def switches(config: ModelConfig) -> tuple[Switch, ...]:
    """Return a model's switches that its texts can reach, the shortest first."""
    kind, limit = config.architecture.kind, config.longest_text
    found = [
        Switch(name, value)
        for field, name in _BY_FIELD[kind].items()
        if isinstance(value := config.fields.get(field), int)
    ]
    if kind is Kind.DECODER:
        found += _of_decoder(config)
    reachable = {each for each in found if each.tokens > 0 and (limit is None or each.tokens < limit)}
    return tuple(sorted(reachable, key=lambda each: (each.tokens, each.name)))


def _of_decoder(config: ModelConfig) -> Iterator[Switch]:
    for window in config.sliding_windows:
        if window is not None:
            yield Switch("sliding window", window)
    if (limit := config.cache_limit) is not None:
        yield Switch("original context of longrope", limit, keeps_cache=False)
    if config.fields.get("attn_temperature_tuning"):
        # `Llama4TextAttention.forward`, `modeling_llama4.py`, transformers 5.24: floor((position + 1) / floor_scale)
        yield Switch("first scale of queries", config.fields["floor_scale"] - 1)
    if config.context > config.max_position_embeddings:
        yield Switch("max_position_embeddings", config.max_position_embeddings)


def unreached(config: ModelConfig) -> tuple[str, ...]:
    """Return a sentence about each switch that no default case crosses."""
    return tuple(
        f"No default case is longer than the {each.name} of {each.tokens:,} tokens. Give --cases to check longer texts."
        for each in switches(config)
        if not each.is_reached
    )
