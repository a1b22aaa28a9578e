"""The tensors of a GGUF file: their names, and how each is made of the checkpoint's.

Names: `LLM_TENSOR_NAMES`, src/llama-arch.cpp of the llama.cpp in xllamacpp 2026.10.11549.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from amp_export.architectures import HeadNorms, LayerWidths, ModelConfig, Multipliers, NormKind
from amp_export.exporters.gguf.experts import planned_experts
from amp_export.exporters.gguf.keys import query_factor
from amp_export.exporters.gguf.mixers import planned_mixer
from amp_export.exporters.gguf.multipliers import multiplied_tensors
from amp_export.exporters.gguf.planned import PlannedTensor
from amp_export.exporters.gguf.routes import Route, rope_of

if TYPE_CHECKING:
    import numpy as np

    from amp_export.checkpoints.reading import Checkpoint

    Array = np.ndarray[Any, np.dtype[Any]]

EMBEDDING, HEAD = "token_embd.weight", "output.weight"

_HEAD_NORMS = HeadNorms("self_attn.q_norm", "self_attn.k_norm")
"""Where norms of heads are in most families that have some."""


def planned_tensors(checkpoint: Checkpoint, route: Route) -> Iterator[PlannedTensor]:
    """Return the tensors of a file, in its order; nothing is read yet."""
    tensors = _stored_tensors(checkpoint, route)
    if route.facts.multipliers is Multipliers.WEIGHTS:
        tensors = multiplied_tensors(checkpoint.config, tensors, _outer_factors(checkpoint.config))
    return tensors


def _stored_tensors(checkpoint: Checkpoint, route: Route) -> Iterator[PlannedTensor]:
    """Yield the tensors with the values that the checkpoint has for them."""
    planner = _Planner(checkpoint, route)
    yield planner.plain(EMBEDDING, "model.embed_tokens.weight")
    if (freqs := _rope_factors(checkpoint.config)) is not None:
        yield PlannedTensor("rope_freqs.weight", freqs.shape, lambda: freqs)
    for number, widths in enumerate(checkpoint.widths):
        yield from planner.layer(number, widths)
    yield planner.norm(f"{route.facts.final_norm}.weight", f"{planner.final_norm}.weight")
    if not checkpoint.config.tie_word_embeddings:
        yield planner.plain(HEAD, "lm_head.weight")
    elif route.facts.multipliers is Multipliers.WEIGHTS and len({*_outer_factors(checkpoint.config).values()}) > 1:
        # what embedding and head share is multiplied with another number in each
        yield planner.plain(HEAD, "model.embed_tokens.weight")


def _outer_factors(config: ModelConfig) -> Mapping[str, float]:
    """Return the multipliers of embedding and LM head."""
    computation = config.architecture.computation
    assert computation is not None
    factors = {EMBEDDING: computation.embedding_factor, HEAD: computation.logit_factor}
    return {name: config.factor(factor) for name, factor in factors.items()}


class _Planner:
    """Plans the tensors of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, route: Route) -> None:
        self._checkpoint, self._config, self._route = checkpoint, checkpoint.config, route
        computation = self._config.architecture.computation
        assert computation is not None, f"the computation of {self._config.architecture.model_type} is not known"
        self._adds_one = computation.norm is NormKind.RMS_FROM_ONE
        self._order, self.final_norm = self._config.order, computation.final_norm
        self._head_norms = computation.head_norms or _HEAD_NORMS
        self._norms_heads = any(name.endswith(f".{self._head_norms.query}.weight") for name in checkpoint.tensors)
        self._factor = query_factor(self._config, checkpoint.widths[0], route)

    def plain(self, name: str, source: str) -> PlannedTensor:
        """Plan a tensor that is taken as it is."""
        return PlannedTensor(name, self._checkpoint.tensors[source].shape, partial(self._checkpoint.read, source))

    def norm(self, name: str, source: str, *, factor: float = 1.0) -> PlannedTensor:
        """Plan the weight of a norm; llama.cpp multiplies with it, where Gemma multiplies with it plus one."""
        import numpy as np

        def read() -> Array:
            values = self._checkpoint.read(source).astype(np.float32)
            scaled: Array = (values + np.float32(self._adds_one)) * np.float32(factor)
            return scaled

        return PlannedTensor(name, self._checkpoint.tensors[source].shape, read)

    def layer(self, number: int, widths: LayerWidths) -> Iterator[PlannedTensor]:
        """Plan the tensors of a layer."""
        source, block = f"model.layers.{number}", f"blk.{number}"
        order = self._order
        for name, norm in (
            ("attn_norm.weight", order.before_attention),
            ("post_attention_norm.weight", order.after_attention),
            (self._route.facts.mlp_norm, order.before_mlp),
            ("post_ffw_norm.weight", order.after_mlp),
        ):
            if norm is not None:
                yield self.norm(f"{block}.{name}", f"{source}.{norm}.weight")
        stack = self._config.sites[number].stack
        if stack.mixer is not None:
            yield from planned_mixer(self._checkpoint, block, source, stack.mixer)
        if stack.attention is not None:
            yield from self._attention(block, source, widths)
        if self._config.architecture.mlp.has_experts:
            yield from planned_experts(self._checkpoint, block, source, widths)
        else:
            yield from self._mlp(block, source, widths)

    def _attention(self, block: str, source: str, widths: LayerWidths) -> Iterator[PlannedTensor]:
        norms = self._head_norms
        if (query_norm := f"{source}.{norms.query}.weight") in self._checkpoint.tensors:
            yield self.norm(f"{block}.attn_q_norm.weight", query_norm, factor=self._factor)
            yield self.norm(f"{block}.attn_k_norm.weight", f"{source}.{norms.key}.weight")
        attention = self._config.architecture.attention
        yield from self._projection(f"{block}.attn_output", f"{source}.{attention.output.name}")
        inputs = [f"{source}.{projection.name}" for projection in attention.inputs]
        heads = (widths.query_heads, widths.key_value_heads, widths.key_value_heads)
        for part in ("weight", "bias"):
            if not self._exists(f"{inputs[0]}.{part}"):
                continue
            rows = [partial(self._query_key_value, inputs, part, heads, place) for place in range(3)]
            columns = (self._config.hidden_size,) if part == "weight" else ()
            shapes = [(count * self._config.head_dim, *columns) for count in heads]
            if self._route.facts.fuses_attention:
                total = sum(shape[0] for shape in shapes)
                yield PlannedTensor(f"{block}.attn_qkv.{part}", (total, *columns), partial(_stack, rows))
                continue
            for name, shape, read in zip(("attn_q", "attn_k", "attn_v"), shapes, rows, strict=True):
                yield PlannedTensor(f"{block}.{name}.{part}", shape, read)

    def _query_key_value(self, inputs: Sequence[str], part: str, heads: tuple[int, int, int], place: int) -> Array:
        """Return the rows of queries, keys or values, in llama.cpp's order."""
        import numpy as np

        if len(inputs) == 1:
            start = sum(heads[:place]) * self._config.head_dim
            rows = self._checkpoint.read(f"{inputs[0]}.{part}")[start : start + heads[place] * self._config.head_dim]
        else:
            rows = self._checkpoint.read(f"{inputs[place]}.{part}")
        if place < 2 and self._route.facts.rotates_neighbours:
            rows = interleave(rows, heads[place])
        if place == 0 and self._factor != 1.0 and not self._norms_heads:
            rows = rows.astype(np.float32) * np.float32(self._factor)
        return rows

    def _mlp(self, block: str, source: str, widths: LayerWidths) -> Iterator[PlannedTensor]:
        mlp = self._config.architecture.mlp
        inputs = [f"{source}.{projection.name}" for projection in mlp.inputs]
        names = (f"{block}.ffn_gate", f"{block}.ffn_up")
        if len(inputs) == 1:
            for place, name in enumerate(names):
                rows = slice(place * widths.neurons, (place + 1) * widths.neurons)
                shape = (widths.neurons, self._config.hidden_size)
                yield PlannedTensor(f"{name}.weight", shape, partial(self._rows, f"{inputs[0]}.weight", rows))
        else:
            for name, projection in zip(names, inputs, strict=True):
                yield from self._projection(name, projection)
        yield from self._projection(f"{block}.ffn_down", f"{source}.{mlp.output.name}")

    def _projection(self, name: str, source: str) -> Iterator[PlannedTensor]:
        """Plan the weight and the bias of a linear layer that is taken as it is."""
        for part in ("weight", "bias"):
            if self._exists(f"{source}.{part}"):
                yield self.plain(f"{name}.{part}", f"{source}.{part}")

    def _rows(self, name: str, rows: slice) -> Array:
        return self._checkpoint.read(name)[rows]

    def _exists(self, name: str) -> bool:
        return name in self._checkpoint.tensors


def interleave(rows: Array, heads: int) -> Array:
    """Return rows of heads so that the dimensions that rotary embeddings pair are neighbours.

    Args:
        rows: Rows of queries or keys, whose dimensions are paired half a head apart: [heads * head_dim, ...].
        heads: Number of heads.
    """
    paired = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return paired.swapaxes(1, 2).reshape(rows.shape)


def _stack(parts: Sequence[Callable[[], Array]]) -> Array:
    import numpy as np

    stacked: Array = np.concatenate([read() for read in parts])
    return stacked


def _rope_factors(config: ModelConfig) -> Array | None:
    """Return what llama.cpp divides each frequency by, for Llama 3's scaling; None for other types.

    Source: `_compute_llama3_parameters`, `modeling_rope_utils.py`, transformers 5.24.
    """
    import numpy as np

    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    factor, original = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    places = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    wavelengths = 2 * np.pi * float(rope["rope_theta"]) ** places
    share = ((original / wavelengths - low) / (high - low)).clip(0.0, 1.0)
    # the share is 1 for short waves, whose frequency stays, and 0 for long ones
    factors: Array = (1.0 / ((1.0 - share) / factor + share)).astype(np.float32)
    return factors
