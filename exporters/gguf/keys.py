"""The keys of a GGUF file that say what llama.cpp computes.

Source: `LLM_KV_NAMES` in src/llama-arch.cpp and `llama_model_base::load_hparams` in src/llama-model.cpp, llama.cpp in
xllamacpp 2026.10.11549.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from amp_export.architectures import LayerWidths, ModelConfig, Multipliers
from amp_export.exporters.gguf.mixers import mixer_keys
from amp_export.exporters.gguf.routes import Route, rope_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from amp_export.exporters.gguf.blocks import Kind

Value = bool | int | float | str | Sequence[int] | Sequence[bool]


def write_keys(writer: GGUFWriter, config: ModelConfig, widths: Sequence[LayerWidths], route: Route) -> None:
    """Add the keys of the architecture to a file."""
    for name, value in model_keys(config, widths, route):
        key = f"{route.name}.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, list(value))


def write_kind(writer: GGUFWriter, kind: Kind) -> None:
    """Add the keys that name the type of most tensors."""
    writer.add_file_type(kind.file_type)
    if kind.is_quantized:
        writer.add_quantization_version(2)


def model_keys(config: ModelConfig, widths: Sequence[LayerWidths], route: Route) -> Iterator[tuple[str, Value]]:
    """Yield the keys of the architecture, without its name, and their values.

    Args:
        config: The checkpoint's config.
        widths: The widths of its layers.
        route: What it is written as.
    """
    yield "block_count", config.num_hidden_layers
    yield "context_length", readable_context(config, route)
    yield "embedding_length", config.hidden_size
    yield "vocab_size", config.vocab_size
    # a layer without attention is known by its lack of key/value heads
    lacks_heads = any(site.stack.attention is None for site in config.sites)
    by_layer = {"attention.head_count_kv"} if lacks_heads else set()
    for key, numbers in (
        ("attention.head_count", [each.query_heads for each in widths]),
        ("attention.head_count_kv", [each.key_value_heads for each in widths]),
        ("feed_forward_length", [each.neurons for each in widths]),
    ):
        yield key, numbers if route.facts.widths_by_layer or key in by_layer else max(numbers)
    # essential: without them, llama.cpp divides the hidden size by the heads
    yield "attention.key_length", config.head_dim
    yield "attention.value_length", config.head_dim
    yield "attention.layer_norm_rms_epsilon", _epsilon(config)
    yield from _rope_keys(config, route)
    yield from _window_keys(config, route)
    yield from _expert_keys(config, widths[0], route)
    yield from _factor_keys(config, route)
    if route.facts.has_mixers:
        yield from mixer_keys(config)


def readable_context(config: ModelConfig, route: Route) -> int:
    """Return the longest text that llama.cpp computes as the model does: up to the window, where it knows none."""
    windows = [window for window in config.sliding_windows if window is not None]
    return min([config.context, *windows]) if windows and not route.facts.has_windows else config.context


def query_factor(config: ModelConfig, widths: LayerWidths, route: Route) -> float:
    """Return what queries have to be multiplied by, so that llama.cpp's own scale of attention scores is the model's.

    Gemma 2 and 3 set it freely (`query_pre_attn_scalar`), and llama.cpp knows it by the number of layers, for one size
    of each from a number of heads that pruning changes.

    Args:
        config: The checkpoint's config.
        widths: The widths of all layers.
        route: What it is written as.
    """
    computation = config.architecture.computation
    if computation is None or route.facts.multipliers is Multipliers.KEYS:
        return 1.0
    own = config.factor(computation.attention_scale.factor)
    divisor = float(config.head_dim)
    if route.facts.scales_by_width_at == config.num_hidden_layers:
        divisor = float(config.hidden_size // widths.query_heads)
    factor = own * divisor**0.5
    return factor if abs(factor - 1.0) > 1e-12 else 1.0


def _epsilon(config: ModelConfig) -> float:
    computation = config.architecture.computation
    field = computation.epsilon if computation is not None else "rms_norm_eps"
    return float(config.fields[field] if isinstance(field, str) else field)


def _rope_keys(config: ModelConfig, route: Route) -> Iterator[tuple[str, Value]]:
    rope = rope_of(config)
    yield "rope.dimension_count", config.head_dim
    yield "rope.freq_base", float(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        yield "rope.scaling.type", rope["rope_type"]
        yield "rope.scaling.factor", float(rope["factor"])
    if rope["rope_type"] == "yarn":
        yield "rope.scaling.original_context_length", int(rope["original_max_position_embeddings"])
        yield "rope.scaling.yarn_beta_fast", float(rope.get("beta_fast") or 32.0)
        yield "rope.scaling.yarn_beta_slow", float(rope.get("beta_slow") or 1.0)
    if route.facts.may_not_rotate and all(kind is None for kind in config.layer_ropes):
        yield "rope.scaling.finetuned", False
    if (local := config.ropes.get("sliding_attention")) is not None:
        yield "rope.freq_base_swa", float(local["rope_theta"])


def _window_keys(config: ModelConfig, route: Route) -> Iterator[tuple[str, Value]]:
    if not route.facts.has_windows:
        return
    windows = config.sliding_windows
    if (window := max((each for each in windows if each is not None), default=None)) is not None:
        yield "attention.sliding_window", window
        yield "attention.sliding_window_pattern", [each is not None for each in windows]


def _expert_keys(config: ModelConfig, widths: LayerWidths, route: Route) -> Iterator[tuple[str, Value]]:
    if config.architecture.mlp.has_experts:
        yield "expert_count", int(config.fields["num_local_experts"])
        yield "expert_used_count", int(config.fields["num_experts_per_tok"])
        if route.name == "qwen3moe":
            yield "expert_feed_forward_length", widths.neurons


def _factor_keys(config: ModelConfig, route: Route) -> Iterator[tuple[str, Value]]:
    computation = config.architecture.computation
    if computation is None:
        return
    for key, field in (
        ("attn_logit_softcapping", computation.attention_softcap),
        ("final_logit_softcapping", computation.logit_softcap),
    ):
        if field is not None and config.fields.get(field) is not None:
            yield key, float(config.fields[field])
    if route.facts.multipliers is Multipliers.KEYS:
        yield "attention.scale", config.factor(computation.attention_scale.factor)
        for key, factor, power in (
            ("embedding_scale", computation.embedding_factor, 1.0),
            ("residual_scale", computation.residual_factor, 1.0),
            # logits are divided by it
            ("logit_scale", computation.logit_factor, -1.0),
        ):
            yield key, config.factor(factor) ** power
