"""A model's config, read from config.json without transformers, so that no export waits for torch to load."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from amp_export.architectures._blocks import Block, Features, Projection, PrunedUnit
from amp_export.architectures._computation import Conditions, Factor, HeadNorms, Not, Order
from amp_export.architectures._facts import AUTO_TASKS, Architecture, Kind, Stack
from amp_export.architectures._fields import fill_in, read_sizes
from amp_export.architectures._layer_rules import read_layers
from amp_export.architectures._parts import flatten_parts
from amp_export.architectures._positions import (
    EVERY_LAYER,
    read_cache_limit,
    read_context,
    read_layer_types,
    read_rope,
    read_rotated,
)
from amp_export.architectures._refusals import refuse_class, refuse_sizes, refuse_types, refuse_values
from amp_export.architectures._sites import LayerWidths, Site
from amp_export.errors import ModelError, UnsupportedModelError


@dataclass(frozen=True)
class ModelConfig:
    """The config fields that determine what a model computes, with transformers' defaults filled in.

    Attributes:
        architecture: The facts about its `model_type`.
        fields: Every field by the family's own name, with defaults and derived values.
        sizes: Sizes by their canonical names, such as `hidden_size`.
        tie_word_embeddings: Whether the LM head shares its weight with the token embedding.
        class_name: The transformers class that the config names, or the family's default.
        dtype: The dtype that the config names, or None.
        other_parameters: Number of parameters that the facts do not list, counted through transformers.
    """

    architecture: Architecture
    fields: Mapping[str, Any]
    sizes: Mapping[str, int]
    tie_word_embeddings: bool
    class_name: str
    dtype: str | None = field(default=None)
    other_parameters: int = 0

    @classmethod
    def read(cls, architecture: Architecture, config: Mapping[str, Any]) -> ModelConfig:
        """Read the content of a config.json.

        Raises:
            ModelError: A field has an invalid value.
            UnsupportedModelError: A field requests something that is not supported.
        """
        config = flatten_parts(config, architecture.parts)
        refuse_types(config, architecture)
        fields = fill_in(architecture, config)
        class_name = first_class(config.get("architectures"), architecture)
        refuse_class(class_name, architecture)
        refuse_values(fields, architecture)
        sizes = read_sizes(architecture, fields)
        refuse_sizes(fields, sizes, architecture)
        return cls(
            architecture=architecture,
            fields=fields,
            sizes=sizes,
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
            class_name=class_name,
            dtype=fields.get("dtype") or fields.get("torch_dtype"),
        )

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.sizes["hidden_size"]

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        return self.sizes["vocab_size"]

    @property
    def intermediate_size(self) -> int:
        """Number of neurons of an MLP."""
        return self.sizes["intermediate_size"]

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""
        return self.sizes["num_hidden_layers"]

    @property
    def num_attention_heads(self) -> int:
        """Number of query heads of a layer."""
        return self.sizes["num_attention_heads"]

    @property
    def num_key_value_heads(self) -> int:
        """Number of key/value heads of a layer."""
        return self.sizes["num_key_value_heads"]

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.sizes["head_dim"]

    @property
    def max_position_embeddings(self) -> int:
        """The config's maximum context length in tokens; `context` may be longer."""
        return self.sizes["max_position_embeddings"]

    @functools.cached_property
    def context(self) -> int:
        """Maximum text length of a decoder in tokens, with the context that RoPE scaling adds."""
        return read_context(self.ropes, self.max_position_embeddings)

    @property
    def cache_limit(self) -> int | None:
        """Text length in tokens beyond which a KV cache must be computed anew; None if a cache is always valid."""
        return read_cache_limit(self.ropes, self.context)

    @property
    def longest_text(self) -> int | None:
        """Maximum text length in tokens; None if positions are relative and the length is unlimited."""
        if "max_position_embeddings" not in self.sizes:
            return None
        # RoBERTa's positions: `create_position_ids_from_input_ids`, `modeling_roberta.py`, transformers 5.24
        skipped = int(self.fields["pad_token_id"]) + 1 if self.architecture.positions_after_padding else 0
        return self.context - skipped

    @property
    def widths(self) -> LayerWidths:
        """The widths of every layer according to this config."""
        return LayerWidths(self.num_attention_heads, self.num_key_value_heads, self.intermediate_size)

    @property
    def is_bare(self) -> bool:
        """Whether the class is a model without a head."""
        has_head = self.class_name.endswith("LMHeadModel") or self._is_named_as_bare
        return self.class_name.endswith("Model") and not has_head

    @property
    def _is_named_as_bare(self) -> bool:
        return self.architecture.named_as_bare and self.class_name == self.architecture.class_name

    @property
    def task(self) -> str:
        """Suffix of the Auto class after `AutoModel`, such as `ForCausalLM`; empty for a model without a head."""
        if self.class_name.endswith("LMHeadModel"):
            return "ForCausalLM"
        if self._is_named_as_bare:
            return self.architecture.generation_task
        _, found, task = self.class_name.partition("For")
        if task == "ConditionalGeneration":
            return self.architecture.generation_task
        return found + AUTO_TASKS.get((self.architecture.modality, task), task)

    @property
    def base_model(self) -> str:
        """Module path of the model below the head; empty if there is no head."""
        return "" if self.is_bare else self.architecture.base_model

    @functools.cached_property
    def sites(self) -> tuple[Site, ...]:
        """All layers, in the order of a plan's entries."""
        prefix = f"{self.architecture.base_model}."
        sites = []
        for stack in self.architecture.stacks:
            layers = stack.layers.removeprefix(prefix) if self.is_bare else stack.layers
            count = self._stack_size(stack, "num_hidden_layers")
            attending = read_layers(self.architecture.attention_layers, self.fields, count)
            with_mlp = read_layers(self.architecture.mlp_layers, self.fields, count)
            mixed = self._mixed_layers(attending, count)
            for number in range(count):
                own = replace(
                    stack,
                    attention=stack.attention if number in attending else None,
                    mlp=stack.mlp if number in with_mlp else None,
                    mixer=stack.mixer if number in mixed else None,
                )
                sites.append(Site(own, number, f"{layers}.{number}", self._stack_widths(own)))
        return tuple(sites)

    @functools.cached_property
    def tied_layers(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the layers that must keep the same heads, by stack."""
        return tuple(
            tuple(number for number, site in enumerate(self.sites) if site.stack == stack)
            for stack in self.architecture.stacks
            if stack.heads_tied
        )

    @property
    def layers_follow_one_another(self) -> bool:
        """Whether the layers are one stack that runs once, so that they can be run one at a time."""
        conditions = self.architecture.layers_follow_when
        return self.architecture.kind is not Kind.ENCODER_DECODER and conditions is not None and self.meets(conditions)

    def size(self, name: str) -> int:
        """Return a size by its canonical name, or by the name of its config field."""
        return self.sizes[name] if name in self.sizes else int(self.fields[name])

    def experts(self, mlp: Block | None) -> int:
        """Return the number of experts of an MLP in scores and plans, with a shared one if pruned; 0 if it has none."""
        if mlp is None or mlp.output.stacked is None:
            return 0
        return self.size(mlp.output.stacked) + (mlp.pruned_shared_expert is not None)

    def fit(self, widths: LayerWidths, site: Site) -> LayerWidths:
        """Return the widths adapted to this layer: without attention it has no heads, without an MLP no neurons."""
        return LayerWidths(
            query_heads=widths.query_heads if site.stack.attention is not None else 0,
            key_value_heads=widths.key_value_heads if site.stack.attention is not None else 0,
            neurons=widths.neurons if site.stack.mlp is not None else 0,
        )

    def everywhere(self, widths: LayerWidths) -> list[LayerWidths]:
        """Return the widths for every layer, each adapted with `fit`."""
        return [self.fit(widths, site) for site in self.sites]

    def common_widths(self, widths: Sequence[LayerWidths]) -> LayerWidths | None:
        """Return the widths of all layers, or None if they differ; a layer without a part fits any number of its units.

        Args:
            widths: The widths of each layer.
        """
        pairs = list(zip(self.sites, widths, strict=True))
        heads = {(each.query_heads, each.key_value_heads) for site, each in pairs if site.stack.attention is not None}
        neurons = {each.neurons for site, each in pairs if site.stack.mlp is not None}
        if len(heads) != 1 or len(neurons) != 1:
            return None
        common = LayerWidths(*heads.pop(), neurons.pop())
        return common if self.everywhere(common) == list(widths) else None

    def _mixed_layers(self, attending: frozenset[int], count: int) -> frozenset[int]:
        rule = self.architecture.mixer_layers
        return frozenset(range(count)) - attending if rule is None else read_layers(rule, self.fields, count)

    def _stack_size(self, stack: Stack, canonical: str) -> int:
        name = stack.names.get(canonical)
        return int(self.fields[name]) if name is not None else self.sizes[canonical]

    def _stack_widths(self, stack: Stack) -> LayerWidths:
        for canonical in stack.names.keys() - {"num_hidden_layers"}:
            if (size := self._stack_size(stack, canonical)) != self.sizes[canonical]:
                other = self.architecture.field_name(canonical)
                raise UnsupportedModelError(
                    f"config.json: {stack.names[canonical]} is {size}, but {other} is {self.sizes[canonical]}.\n"
                    "Only models whose layers all have the same widths are supported."
                )
        heads = self.num_attention_heads
        neurons = self.intermediate_size if stack.mlp is not None else 0
        if stack.attention is None:
            return LayerWidths(0, 0, neurons)
        return LayerWidths(heads, self.num_key_value_heads, neurons)

    def meets(self, conditions: Conditions) -> bool:
        """Return whether the config meets all conditions."""
        return all(_has(self.fields.get(name), value) for name, value in conditions.items())

    @property
    def head_norms(self) -> HeadNorms | None:
        """Norms of queries and keys; None if the family has none, or this config is without."""
        computation = self.architecture.computation
        norms = computation.head_norms if computation is not None else None
        return norms if norms is not None and self.meets(norms.when) else None

    def features(self, axis: Features, widths: LayerWidths) -> int:
        """Return the length of an axis in a layer of these widths."""
        return sum(widths.of(unit) * self.entries(axis, unit) for unit in axis.units)

    def entries(self, axis: Features, unit: PrunedUnit) -> int:
        """Return the number of entries of an axis that one head or neuron spans."""
        if unit is PrunedUnit.NEURONS:
            return 1
        entries = axis.entries_per_head
        if isinstance(entries, tuple):
            return sum(self.size(name) for name in entries)
        return self.head_dim if entries is None else entries

    @functools.cached_property
    def biases(self) -> Mapping[str, bool]:
        """Whether each projection has a bias, by its name."""
        blocks = (block for stack in self.architecture.stacks for block in stack.all_blocks)
        projections = [projection for block in blocks for projection in block.projections]
        return {projection.name: projection.has_bias(self.fields) for projection in projections}

    @functools.cached_property
    def order(self) -> Order:
        """The form of a layer; only families whose computation is known have one."""
        computation = self.architecture.computation
        assert computation is not None, f"the computation of {self.architecture.model_type} is not known"
        return next(order for order in computation.orders if self.meets(order.when))

    def factor(self, factor: Factor | None) -> float:
        """Return the value of a multiplier; 1 if there is none."""
        if factor is None:
            return 1.0
        base: Any = self.sizes[factor.of] if factor.of in self.sizes else self.fields[factor.of]
        return float((base if factor.item is None else base[factor.item]) ** factor.power)

    def write_factors(self, projection: Projection) -> tuple[float, ...]:
        """Return the multipliers of what a linear layer writes: one, or one for each part of its output."""
        computation = self.architecture.computation
        named = computation.write_factors.get(projection.name, ()) if computation is not None else ()
        return tuple(map(self.factor, named)) or (1.0,)

    @functools.cached_property
    def ropes(self) -> Mapping[str, Mapping[str, Any]]:
        """RoPE parameters (`rope_type`, `rope_theta` and those of the type), by layer type or `EVERY_LAYER`."""
        return read_rope(self.architecture, self.fields)

    @property
    def rope_parameters(self) -> Mapping[str, Any]:
        """RoPE parameters in the form of transformers 5: flat if all layers share them."""
        return self.ropes.get(EVERY_LAYER, self.ropes)

    @functools.cached_property
    def layer_ropes(self) -> tuple[str | None, ...]:
        """Each layer's key in `ropes`, or None for a layer without rotary embeddings."""
        rotated = read_rotated(self.architecture, self.fields, self.num_hidden_layers)
        kinds = self.layer_types if EVERY_LAYER not in self.ropes else (EVERY_LAYER,) * len(rotated)
        return tuple(kind if turns else None for kind, turns in zip(kinds, rotated, strict=True))

    @functools.cached_property
    def layer_types(self) -> tuple[str, ...]:
        """Each layer's attention type: `sliding_attention` or `full_attention`."""
        return read_layer_types(self.architecture, self.fields, self.num_hidden_layers)

    @property
    def sliding_windows(self) -> tuple[int | None, ...]:
        """Each layer's attention window in tokens, or None for full attention."""
        window = self.fields.get("sliding_window")
        return tuple(window if kind == "sliding_attention" else None for kind in self.layer_types)


def first_class(architectures: object, architecture: Architecture) -> str:
    """Return the first class of a config's `architectures`, or the family's default if it is absent or empty.

    Raises:
        ModelError: It is not a list of class names.
    """
    if not architectures:
        return architecture.class_name
    first = architectures[0] if isinstance(architectures, list | tuple) else None
    # messages show the name within code to copy
    if not isinstance(first, str) or not first.isidentifier():
        raise ModelError(
            f"config.json: architectures is {architectures!r}, but must be a list of class names, such as "
            f'["{architecture.class_name}"].'
        )
    return first


def _has(found: Any, value: Any) -> bool:
    if isinstance(value, Not):
        return bool(found != value.value)
    return bool(found in value if isinstance(value, tuple) else found == value)
