"""Attention of a layer, as nodes: from the projections, which may be fused, to the output projection."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from amp_export.architectures import LayerWidths, Layout, Learned, NormSpan
from amp_export.exporters.models.caches import WRITE_INDICES
from amp_export.exporters.onnx.builder.entries import Entry
from amp_export.exporters.onnx.builder.layers import Parts
from amp_export.exporters.onnx.builder.masks import add_masks, add_places, mask_name
from amp_export.exporters.onnx.builder.multi_axis import add_rows_by_axis, rows_name
from amp_export.exporters.onnx.builder.onnxruntime import (
    GroupQueryFacts,
    GroupQueryParts,
    add_group_query_attention,
    add_lengths,
    rotates,
)
from amp_export.exporters.onnx.builder.opset20 import AttentionParts, add_attention, add_rotation, add_rotation_rows
from amp_export.exporters.onnx.builder.products import add_packed_linear
from amp_export.exporters.onnx.builder.rotary import Rope, ropes
from amp_export.options import Dtype

_POSITION_SCALE = "attention.position_scale"


@dataclass(frozen=True)
class Attention(Parts):
    """Adds attentions to a graph.

    Attributes:
        entry: What the graph reads.
        cache_length: Tokens that the KV cache has room for, and is written into; None if it grows.
    """

    entry: Entry
    cache_length: int | None = None

    def add(self, layer: int, widths: LayerWidths, hidden: str) -> str:
        """Add the attention of a layer, and append its keys and values to the KV cache."""
        scope = f"{self.config.architecture.layers}.{layer}"
        projected = self._add_projections(scope, widths, hidden)
        gate = None
        if self.computation.gates_attention:
            projected[0], gate = self._add_gate(scope, widths, projected[0])
        attend = self._add_fused if self.graph.is_fused else self._add_standard
        joined = attend(layer, scope, widths, projected)
        if gate is not None:
            joined = self.graph.add("Mul", joined, gate, output=f"{scope}.attention.gated")
        return self.add_linear(scope, self.config.architecture.attention.output, joined)

    @property
    def takes_positions(self) -> bool:
        """Whether the graph takes `position_ids`: fused attentions count positions themselves."""
        reads = isinstance(self.computation.positions, Learned) or self.computation.attention_scale.by_position
        return bool(reads) or not self.graph.is_fused or not all(map(self._is_rotated_inside, self._ropes.values()))

    def prepare(self) -> None:
        """Add what all layers share: masks, or lengths for fused attentions, and the rows of rotary caches."""
        if self.graph.is_fused:
            add_lengths(self.graph)
        else:
            places = add_places(self.graph, self.entry.input_name, self.cache_length)
            for mask in add_masks(self.graph, self.config.sliding_windows, places, self.entry).values():
                if self._is_spelled_out:
                    # an axis for the query heads of a group
                    self.graph.add("Unsqueeze", mask, self.graph.integers(2), output=f"{mask}.of_group")
        self._prepare_positions()
        self._prepare_position_scale()

    def _add_standard(self, layer: int, scope: str, widths: LayerWidths, projected: Sequence[str]) -> str:
        """Add Attention over the heads, [batch, heads, sequence, head_dim], and return its result by token."""
        queries, keys, values = projected
        norms = [self._norm_name(scope, part) for part in ("query", "key")]
        first = [None, None] if self._is_normed_last else norms
        queries = self._add_heads(queries, widths.query_heads, norm=first[0])
        keys = self._add_heads(keys, widths.key_value_heads, norm=first[1])
        values = self._add_heads(values, widths.key_value_heads)
        if (kind := self.config.layer_ropes[layer]) is not None:
            queries, keys = (self._add_rotation(heads, self._ropes[kind]) for heads in (queries, keys))
        if self._is_normed_last:
            queries, keys = (self.add_norm(str(norm), each) for norm, each in zip(norms, (queries, keys), strict=True))
        queries = self._add_position_scale(queries)
        keys = self._add_to_past(layer, "key", keys)
        values = self._add_to_past(layer, "value", values)
        mask = mask_name(self.config.sliding_windows[layer])
        if self._is_spelled_out:
            attended = add_attention(
                self.graph,
                AttentionParts(queries, keys, values, f"{mask}.of_group", self._sinks(scope)),
                widths,
                head_dim=self.config.head_dim,
                scale=self._scale(layer),
                cap=functools.partial(
                    self.add_softcap, self.computation.attention_softcap, output=f"{scope}.attention.capped"
                ),
                output=f"{scope}.attention",
            )
        else:
            # key/value heads are not repeated: Attention shares each among its group of query heads.
            # softmax_precision is not set: TensorRT-RTX 1.7 rejects Attention with it
            attended = self.graph.add(
                "Attention", queries, keys, values, mask, output=f"{scope}.attention", scale=self._scale(layer)
            )
        joined = self.graph.add("Transpose", attended, output=f"{attended}.by_token", perm=[0, 2, 1, 3])
        shape = self.graph.integers(0, 0, widths.query_heads * self.config.head_dim)
        return self.graph.add("Reshape", joined, shape, output=f"{attended}.joined")

    def _add_fused(self, layer: int, scope: str, widths: LayerWidths, projected: Sequence[str]) -> str:
        """Add GroupQueryAttention, which appends to the KV cache itself, and rotates where its kernel can."""
        if self._is_by_group:
            counts = (widths.query_heads, widths.key_value_heads, widths.key_value_heads)
            projected = [
                self._add_join(part, count, output=f"{part}.joined")
                for part, count in zip(projected, counts, strict=True)
            ]
        kind = self.config.layer_ropes[layer]
        rope = self._ropes[kind] if kind is not None else None
        is_inside = rope is not None and self._is_rotated_inside(rope)
        if len(projected) == 1:
            queries, keys, values = *projected, "", ""
        else:
            queries, keys, values = projected
            queries = self._add_placed(queries, widths.query_heads, self._norm_name(scope, "query"), rope)
            keys = self._add_placed(keys, widths.key_value_heads, self._norm_name(scope, "key"), rope)
            queries = self._add_position_scale(queries)
            values = self._add_clip(values)
        field = self.computation.attention_softcap
        past = f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"
        return add_group_query_attention(
            self.graph,
            GroupQueryParts(queries, keys, values, *past, self._sinks(scope)),
            widths,
            GroupQueryFacts(
                scale=self._scale(layer),
                rope=rope if is_inside else None,
                interleaved=self._is_interleaved,
                window=self.config.sliding_windows[layer],
                softcap=self.config.fields[field] if field is not None else None,
            ),
            presents=(f"present.{layer}.key", f"present.{layer}.value"),
            output=f"{scope}.attention",
        )

    def _is_rotated_inside(self, rope: Rope) -> bool:
        """Whether GroupQueryAttention rotates, which has no norms after the rotation, and one position for a token."""
        return not self._is_normed_last and not self.entry.axes and rotates(rope, self.config.head_dim)

    def _add_placed(self, projected: str, heads: int, norm: str | None, rope: Rope | None) -> str:
        """Add the norm of a projection's heads, and their rotation unless GroupQueryAttention rotates."""
        if rope is None or self._is_rotated_inside(rope):
            return self._add_head_norm(projected, heads, norm=norm)
        if self._is_normed_last:
            return self._add_head_norm(self._add_rotation_by_token(projected, heads, rope), heads, norm=norm)
        return self._add_rotation_by_token(self._add_head_norm(projected, heads, norm=norm), heads, rope)

    def _add_head_norm(self, projected: str, heads: int, *, norm: str | None) -> str:
        """Add the norm of heads if there is one, to a projection [batch, sequence, heads x head_dim]."""
        if norm is None or self.config.head_norms is None:
            return self._add_clip(projected)
        if self.config.head_norms.span is NormSpan.ALL_HEADS:
            return self._add_clip(self.add_norm(norm, projected))
        split = self._add_norm_by_head(norm, self._add_split(projected, heads))
        return self._add_join(split, heads, output=f"{norm}.joined")

    def _add_clip(self, projected: str) -> str:
        """Clip queries, keys or values to the largest magnitude that the config names, if any."""
        field = self.computation.attention_clip
        if field is None or (limit := self.config.fields[field]) is None:
            return projected
        limits = self.graph.number(-limit), self.graph.number(limit)
        return self.graph.add("Clip", projected, *limits, output=f"{projected}.clipped")

    def _add_norm_by_head(self, norm: str, split: str) -> str:
        """Add the norm of each head of [batch, sequence, heads, head_dim]; heads may have weights of their own."""
        is_own = self.config.head_norms is not None and self.config.head_norms.span is NormSpan.HEAD_OF_ITS_OWN
        return self.add_norm_of_each_head(norm, split) if is_own else self.add_norm(norm, split)

    def _add_rotation_by_token(self, projected: str, heads: int, rope: Rope) -> str:
        """Rotate the heads of a projection [batch, sequence, heads x head_dim]."""
        rotated = self._add_rotation(self._add_turn(projected, self._add_split(projected, heads)), rope)
        rotated = self.graph.add("Transpose", rotated, output=f"{rotated}.by_token", perm=[0, 2, 1, 3])
        return self._add_join(rotated, heads, output=f"{rotated}.joined")

    def _add_split(self, projected: str, heads: int) -> str:
        shape = self.graph.integers(0, 0, heads, self.config.head_dim)
        return self.graph.add("Reshape", projected, shape, output=f"{projected}.split")

    def _add_join(self, split: str, heads: int, *, output: str) -> str:
        return self.graph.add("Reshape", split, self.graph.integers(0, 0, heads * self.config.head_dim), output=output)

    def _prepare_positions(self) -> None:
        """Add the rows of the rotary caches at the positions of the batch.

        If the frequencies switch, the caches have two halves: the second is for texts beyond the original context. The
        longest text of a batch decides for all: `longrope_frequency_update`, `modeling_rope_utils.py`, transformers
        5.24.
        """
        for rope in self._ropes.values():
            if self.graph.is_fused and self._is_rotated_inside(rope):
                continue
            if rope.switches:
                scope, original = rope.cos_cache, int(rope.parameters["original_max_position_embeddings"])
                last = self.graph.add("ReduceMax", "position_ids", output=f"{scope}.last", keepdims=0)
                beyond = self.graph.add("GreaterOrEqual", last, self.graph.integer(original), output=f"{scope}.beyond")
                halves = self.graph.integer(rope.positions), self.graph.integer(0)
                offset = self.graph.add("Where", beyond, *halves, output=f"{scope}.offset")
                self.graph.add("Add", "position_ids", offset, output=f"{scope}.positions")
            self._prepare_rows(rope)

    def _prepare_rows(self, rope: Rope) -> None:
        """Add the rows of caches that RotaryEmbedding does not look up: where an opset has none, or by axis."""
        is_known, caches = self.graph.knows("RotaryEmbedding"), (rope.cos_cache, rope.sin_cache)
        if self.entry.axes:
            add_rows_by_axis(self.graph, rope, self._positions(rope), self.entry.axes)
        elif not is_known:
            for cache in caches:
                table = self.graph.weight(cache)
                self.graph.add("Gather", table, self._positions(rope), output=rows_name(cache), axis=0)
        if not is_known:
            for cache in caches:
                add_rotation_rows(self.graph, rows_name(cache), interleaved=self._is_interleaved)

    def _prepare_position_scale(self) -> None:
        """Add the factor on each token's queries, if there is one: [batch, sequence, 1], or with an axis for heads.

        Source: `get_llama_4_attn_scale`, `modeling_ministral3.py`, transformers 5.24.
        """
        if (name := self.computation.attention_scale.by_position) is None:
            return
        graph, rope = self.graph, self.config.rope_parameters
        original, one = rope["original_max_position_embeddings"], graph.number(1.0, dtype=Dtype.FLOAT32)
        turns = graph.add("Div", "position_ids", graph.integer(int(original)), output=f"{_POSITION_SCALE}.turns")
        turns = graph.to_float32(turns, output=f"{_POSITION_SCALE}.float32")
        logs = graph.add("Log", graph.add("Add", turns, one, output=f"{turns}.from_one"), output=f"{turns}.log")
        growth = graph.add("Mul", logs, graph.number(rope[name], dtype=Dtype.FLOAT32), output=f"{turns}.growth")
        scale = graph.add("Add", growth, one, output=f"{turns}.scale")
        scale = graph.cast(scale, graph.dtype, output=f"{scale}.rounded", source=Dtype.FLOAT32)
        axes = graph.integers(2) if graph.is_fused else graph.integers(1, 3)
        graph.add("Unsqueeze", scale, axes, output=_POSITION_SCALE)

    def _add_position_scale(self, queries: str) -> str:
        if self.computation.attention_scale.by_position is None:
            return queries
        return self.graph.add("Mul", queries, _POSITION_SCALE, output=f"{queries}.scaled")

    @functools.cached_property
    def _ropes(self) -> dict[str, Rope]:
        return ropes(self.config)

    @property
    def _is_spelled_out(self) -> bool:
        """Whether attention takes more than one node.

        Attention has no sinks. It has a soft cap, but ONNX Runtime 1.32 applies it before the mask, and 1.24 after it.
        """
        field = self.computation.attention_softcap
        is_capped = field is not None and self.config.fields[field] is not None
        has_sinks = self.computation.attention_sinks is not None
        return is_capped or has_sinks or not self.graph.knows("Attention")

    def _sinks(self, scope: str) -> str | None:
        """Return the name of a layer's sinks, or None."""
        name = self.computation.attention_sinks
        return f"{scope}.{name}" if name is not None else None

    @property
    def _is_normed_last(self) -> bool:
        """Whether norms of heads follow their rotation."""
        return self.config.head_norms is not None and self.config.head_norms.after_rotation

    def _norm_name(self, scope: str, part: str) -> str | None:
        return f"{scope}.{getattr(self.config.head_norms, part)}" if self.config.head_norms is not None else None

    def _scale(self, layer: int) -> float:
        fact, fields = self.computation.attention_scale, self.config.fields
        scale = 1.0 if fact.switch is not None and not fields[fact.switch] else self.config.factor(fact.factor)
        return scale / (layer + 1) if fact.by_layer is not None and fields[fact.by_layer] else scale

    @property
    def _is_by_group(self) -> bool:
        """Whether one projection computes queries, keys and values, those of each group together."""
        (first, *_) = self.config.architecture.attention.inputs
        return first.layout is Layout.GROUPS

    def _add_projections(self, scope: str, widths: LayerWidths, hidden: str) -> list[str]:
        """Add the projections to queries, keys and values, whose heads lie on the last axis or the last two.

        Returns:
            Queries, keys and values; or one value with all of them side by side, if they are packed.
        """
        attention, head_dim = self.config.architecture.attention, self.config.head_dim
        names = [f"{scope}.{projection.name}" for projection in attention.inputs]
        if (pack := self.graph.pack_of(f"{names[0]}.weight")) is not None:
            packed = add_packed_linear(self.graph, pack, names, hidden)
            factors = [factor for projection in attention.inputs for factor in self.config.write_factors(projection)]
            counts = (widths.query_heads, widths.key_value_heads, widths.key_value_heads)
            return [self.add_multipliers(factors, [count * head_dim for count in counts], packed)]
        if len(attention.inputs) == 3:
            return [self.add_linear(scope, projection, hidden) for projection in attention.inputs]
        (projection,) = attention.inputs
        fused = self.add_linear(scope, projection, hidden)
        groups = 1
        if self._is_by_group:
            groups = widths.key_value_heads
            shape = self.graph.integers(0, 0, groups, (widths.query_group + 2) * head_dim)
            fused = self.graph.add("Reshape", fused, shape, output=f"{fused}.groups")
        heads = (widths.query_heads, widths.key_value_heads, widths.key_value_heads)
        names = [f"{scope}.{attention.module}.{part}" for part in ("query", "key", "value")]
        return list(self.graph.split(fused, [count // groups * head_dim for count in heads], outputs=names))

    def _add_gate(self, scope: str, widths: LayerWidths, projected: str) -> tuple[str, str]:
        """Part a projection that writes a gate after each query head.

        Returns:
            The queries, and the sigmoids of the gates, both [batch, sequence, heads x head_dim].
        """
        graph, heads, module = self.graph, widths.query_heads, f"{scope}.{self.config.architecture.attention.module}"
        shape = graph.integers(0, 0, heads, 2 * self.config.head_dim)
        pairs = graph.add("Reshape", projected, shape, output=f"{projected}.pairs")
        parts = graph.split(pairs, [self.config.head_dim] * 2, outputs=[f"{module}.query", f"{module}.gate"])
        queries, gate = (self._add_join(part, heads, output=f"{part}.joined") for part in parts)
        return queries, graph.add("Sigmoid", gate, output=f"{gate}.sigmoid")

    def _add_heads(self, projected: str, heads: int, *, norm: str | None = None) -> str:
        """Split a projection into heads, [batch_size, heads, sequence_length, head_dim], and add their norm if any."""
        span = self.config.head_norms.span if self.config.head_norms is not None and norm is not None else None
        if norm is not None and span is NormSpan.ALL_HEADS:
            projected = self.add_norm(norm, projected)
        split = self._add_split(self._add_clip(projected), heads)
        if norm is not None and span is not NormSpan.ALL_HEADS:
            split = self._add_norm_by_head(norm, split)
        return self._add_turn(projected, split)

    def _add_turn(self, projected: str, split: str) -> str:
        return self.graph.add("Transpose", split, output=f"{projected}.heads", perm=[0, 2, 1, 3])

    def _add_rotation(self, heads: str, rope: Rope) -> str:
        """Rotate the first dimensions of each head; ONNX Runtime 1.23 has no `rotary_embedding_dim` for four axes."""
        rest = self.config.head_dim - rope.dimensions
        turning, *still = (
            self.graph.split(heads, [rope.dimensions, rest], outputs=[f"{heads}.turning", f"{heads}.still"])
            if rest
            else [heads]
        )
        rotated = self._rotate(turning, rope)
        return self.graph.add("Concat", rotated, *still, output=f"{heads}.rotated", axis=-1) if still else rotated

    def _rotate(self, turning: str, rope: Rope) -> str:
        output, caches = f"{turning}.rotated", (rope.cos_cache, rope.sin_cache)
        if not self.graph.knows("RotaryEmbedding"):
            rows = (f"{rows_name(cache)}_of_heads" for cache in caches)
            return add_rotation(
                self.graph, turning, *rows, dimensions=rope.dimensions, interleaved=self._is_interleaved, output=output
            )
        pairs = {"interleaved": 1} if self._is_interleaved else {}
        if self.entry.axes:
            return self.graph.add("RotaryEmbedding", turning, *map(rows_name, caches), output=output, **pairs)
        tables = map(self.graph.weight, caches)
        return self.graph.add("RotaryEmbedding", turning, *tables, self._positions(rope), output=output, **pairs)

    def _positions(self, rope: Rope) -> str:
        return f"{rope.cos_cache}.positions" if rope.switches else "position_ids"

    @property
    def _is_interleaved(self) -> bool:
        return bool(getattr(self.computation.positions, "interleaved", False))

    def _add_to_past(self, layer: int, part: str, new: str) -> str:
        past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
        if self.cache_length is None:
            return self.graph.add("Concat", past, new, output=present, axis=2)
        return self.graph.add("TensorScatter", past, new, WRITE_INDICES, output=present, axis=2)
