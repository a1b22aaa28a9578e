"""A decoder's config, read from config.json without transformers: the export must not wait for torch to load."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amp_export.architectures._facts import Architecture, Projection, Unit
from amp_export.errors import ModelError, UnsupportedModelError

DEFAULT_ROPE_THETA = 10_000.0
"""transformers' `RotaryEmbeddingConfigMixin.default_theta`, `modeling_rope_utils.py`, 5.23."""

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class LayerWidths:
    """How wide one decoder layer is.

    Attributes:
        query_heads: Number of query heads.
        key_value_heads: Number of key/value heads; it divides `query_heads`.
        neurons: Intermediate size of the MLP.
    """

    query_heads: int
    key_value_heads: int
    neurons: int

    @property
    def query_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.query_heads // self.key_value_heads

    def of(self, unit: Unit) -> int:
        """The count of `unit`."""
        return int(getattr(self, unit.value))


@dataclass(frozen=True)
class DecoderConfig:
    """The fields of a config that decide what a decoder computes, with transformers' defaults filled in.

    Attributes:
        architecture: The facts of its `model_type`.
        rope_parameters: `rope_type`, `rope_theta` and what that type needs besides, in transformers 5's form.
        sliding_windows: For each layer the width of its attention window, or None for full attention.
        biases: For each projection's name, whether it has a bias.
        dtype: The dtype that the config names, or None.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope_parameters: Mapping[str, Any]
    sliding_windows: tuple[int | None, ...]
    biases: Mapping[str, bool]
    dtype: str | None

    @classmethod
    def read(cls, architecture: Architecture, config: Mapping[str, Any]) -> DecoderConfig:
        """Reads the content of a config.json.

        Raises:
            ModelError: A field has a value that no model can have.
            UnsupportedModelError: A field asks for something that is not supported.
        """
        if quantization := config.get("quantization_config"):
            raise UnsupportedModelError(
                f"The checkpoint is quantized ({quantization.get('quant_method', 'unknown method')}).\n"
                "Plain weights are needed: load it with transformers, call model.dequantize(), save it, and use that."
            )
        fields = {
            **architecture.defaults,
            **{key: value for key, value in config.items() if value is not None},
        }
        if fields["num_key_value_heads"] is None:
            fields["num_key_value_heads"] = fields["num_attention_heads"]
        if fields["head_dim"] is None:
            fields["head_dim"] = fields["hidden_size"] // fields["num_attention_heads"]
        if architecture.windows_every_layer and "sliding_window" in config:
            fields["sliding_window"] = config["sliding_window"]
        for name in _COUNTS:
            if not isinstance(fields[name], int) or fields[name] < 1:
                raise ModelError(f"config.json: {name} is {fields[name]!r}, and must be a whole number of at least 1.")
        if fields["num_attention_heads"] % fields["num_key_value_heads"]:
            raise ModelError(
                f"config.json: num_attention_heads ({fields['num_attention_heads']}) is not a multiple of "
                f"num_key_value_heads ({fields['num_key_value_heads']})."
            )
        return cls(
            architecture=architecture,
            **{name: fields[name] for name in _COUNTS},
            hidden_act=fields["hidden_act"],
            rms_norm_eps=float(fields["rms_norm_eps"]),
            tie_word_embeddings=bool(fields["tie_word_embeddings"]),
            rope_parameters=_read_rope(fields),
            sliding_windows=_read_windows(architecture, fields),
            biases={projection.name: projection.has_bias(fields) for projection in architecture.projections},
            dtype=fields.get("dtype") or fields.get("torch_dtype"),
        )

    @property
    def widths(self) -> LayerWidths:
        """The widths that every layer has by this config."""
        return LayerWidths(self.num_attention_heads, self.num_key_value_heads, self.intermediate_size)

    def features(self, unit: Unit | None, widths: LayerWidths) -> int:
        """How many rows or columns of a weight `unit` spans in a layer of these widths."""
        if unit is None:
            return self.hidden_size
        return widths.of(unit) * (1 if unit is Unit.NEURONS else self.head_dim)


def _read_rope(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Brings old and new ways of writing RoPE parameters into one form, as `standardize_rope_params` does."""
    rope: dict[str, Any] = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UnsupportedModelError("config.json: RoPE parameters that differ between layers are not supported.")
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", fields.get("rope_theta", DEFAULT_ROPE_THETA))
    partial = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise UnsupportedModelError(f"config.json: partial_rotary_factor is {partial}; only 1.0 is supported.")
    if rope["rope_type"] in ("llama3", "yarn"):
        rope.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
    return rope


def _read_windows(architecture: Architecture, fields: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Each layer's attention window: `configuration_mistral.py` and `configuration_qwen2.py`, transformers 5.23."""
    layers: int = fields["num_hidden_layers"]
    window: int | None = fields.get("sliding_window")
    if architecture.windows_every_layer:
        return (window,) * layers
    if window is None or not fields.get("use_sliding_window"):
        return (None,) * layers
    kinds = fields["layer_types"] or [
        "sliding_attention" if layer >= fields["max_window_layers"] else "full_attention" for layer in range(layers)
    ]
    if len(kinds) != layers:
        raise ModelError(f"config.json: layer_types names {len(kinds)} layers, num_hidden_layers is {layers}.")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def tensor_shapes(config: DecoderConfig, widths: Sequence[LayerWidths] | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a decoder whose layers have these widths.

    Args:
        config: The decoder's config.
        widths: One entry a layer; by default all are as the config says.

    Returns:
        Shapes by the names that transformers gives the tensors. Of tied embeddings only the input side is named.
    """
    architecture = config.architecture
    widths = widths if widths is not None else [config.widths] * config.num_hidden_layers
    shapes: dict[str, tuple[int, ...]] = {f"{architecture.embedding}.weight": (config.vocab_size, config.hidden_size)}
    for layer, layer_widths in enumerate(widths):
        prefix = f"{architecture.layers}.{layer}"
        for norm in (architecture.input_norm, architecture.mlp_norm):
            shapes[f"{prefix}.{norm}.weight"] = (config.hidden_size,)
        for norm in filter(None, (architecture.query_norm, architecture.key_norm)):
            shapes[f"{prefix}.{norm}.weight"] = (config.head_dim,)
        for projection in architecture.projections:
            shapes.update(_projection_shapes(config, projection, layer_widths, prefix))
    shapes[f"{architecture.final_norm}.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[f"{architecture.head}.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def _projection_shapes(
    config: DecoderConfig, projection: Projection, widths: LayerWidths, prefix: str
) -> Iterable[tuple[str, tuple[int, ...]]]:
    rows, columns = config.features(projection.rows, widths), config.features(projection.columns, widths)
    yield f"{prefix}.{projection.name}.weight", (rows, columns)
    if config.biases[projection.name]:
        yield f"{prefix}.{projection.name}.bias", (rows,)


def parameter_count(config: DecoderConfig, widths: Sequence[LayerWidths] | None = None) -> int:
    """How many parameters such a decoder has, embeddings counted and tied ones counted once."""
    return sum(math.prod(shape) for shape in tensor_shapes(config, widths).values())
