"""The form in which the facts of an architecture are written down."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from amp_export.architectures._computation import Computation, Conditions

MAY_BE_IGNORED = frozenset(
    {
        *("architectures", "attention_dropout", "attn_pdrop", "auto_map", "bos_token_id", "chunk_size_feed_forward"),
        *("classifier_dropout", "decoder_start_token_id", "dropout", "dtype", "embd_pdrop", "embedding_dropout"),
        *("eos_token_id", "hidden_dropout", "id2label", "init_std", "initializer_factor", "initializer_range"),
        *("is_encoder_decoder", "label2id", "layerdrop", "mlp_dropout", "model_type", "output_attentions"),
        *("output_hidden_states", "pad_token_id", "problem_type", "resid_pdrop", "residual_dropout", "return_dict"),
        *("torch_dtype", "transformers_version", "use_cache", "_name_or_path", "attention_probs_dropout_prob"),
        *("hidden_dropout_prob", "activation_dropout", "sep_token_id", "cls_token_id"),
    }
)
"""Config fields of any family that change nothing about what a trained model computes, or that name its tokens."""


class PrunedUnit(enum.StrEnum):
    """What pruning removes, and what one axis of a weight can be indexed by."""

    QUERY_HEADS = "query_heads"
    KEY_VALUE_HEADS = "key_value_heads"
    NEURONS = "neurons"


class Kind(enum.StrEnum):
    """What a model does with its input."""

    DECODER = "decoder"
    """Continues a text."""
    ENCODER = "encoder"
    """Reads a text or an image once."""
    ENCODER_DECODER = "encoder-decoder"
    """Reads one thing and writes another."""


class Modality(enum.StrEnum):
    """What a model reads."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"


class Layout(enum.StrEnum):
    """How the parts of a fused weight lie in memory."""

    BLOCKS = "blocks"
    """All of the first unit, then all of the next: phi3, gpt2."""
    GROUPS = "groups"
    """For each key/value head its query heads, then its key, then its value: gpt_neox and every form of falcon."""


@dataclass(frozen=True)
class Features:
    """An axis of a weight that is indexed by heads or neurons, so that pruning slices it.

    Attributes:
        units: What lies along it; several where projections are fused.
        layout: How they lie there.
        entries_per_head: How many entries a head spans; None is `head_dim`.
    """

    units: tuple[PrunedUnit, ...]
    layout: Layout = Layout.BLOCKS
    entries_per_head: int | None = None


@dataclass(frozen=True)
class Offset:
    """An axis that is longer than a size by a fixed number of entries."""

    size: str
    by: int


Axis = str | int | Offset | Features
"""A size by its canonical name (such as `hidden_size`), a number, or what pruning slices."""


@dataclass(frozen=True)
class Tensor:
    """A weight that is no projection: an embedding, or part of a norm.

    Attributes:
        name: Its name: below the layer for a layer's tensor, whole otherwise.
        axes: What it is indexed by.
        when: When it is there at all.
        first_layer_only: Whether the first layer alone has it.
    """

    name: str
    axes: tuple[Axis, ...]
    when: Conditions = field(default_factory=dict)
    first_layer_only: bool = False

    @property
    def spans_heads(self) -> bool:
        """Whether it is a norm over all heads at once, which divides by what all of them are."""
        return len(self.axes) == 1 and isinstance(self.axes[0], Features)


@dataclass(frozen=True)
class Projection:
    """One linear layer of a decoder or encoder layer.

    Attributes:
        name: Module path below the layer.
        rows: What the output features are indexed by; None is the hidden size.
        columns: What the input features are indexed by; None is the hidden size.
        bias: Whether there is a bias, or the config field that says so.
        transposed: Whether the weight is [in, out], as in transformers' `Conv1D`.
        layout: How the parts of a fused projection lie.
        when: When it is there at all.
        stacked: The config field with the number of experts whose weights are one parameter, or None.
    """

    name: str
    rows: PrunedUnit | tuple[PrunedUnit, ...] | None = None
    columns: PrunedUnit | None = None
    bias: bool | str = False
    transposed: bool = False
    layout: Layout = Layout.BLOCKS
    when: Conditions = field(default_factory=dict)
    stacked: str | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Return weight and bias."""
        rows, columns = self._axis(self.rows), self._axis(self.columns)
        if self.stacked is not None:
            return (Tensor(self.name, (self.stacked, rows, columns), self.when),)
        weight = Tensor(f"{self.name}.weight", (columns, rows) if self.transposed else (rows, columns), self.when)
        if self.bias is False:
            return (weight,)
        when = {**self.when, **({self.bias: True} if isinstance(self.bias, str) else {})}
        return (weight, Tensor(f"{self.name}.bias", (rows,), when))

    def has_bias(self, fields: Mapping[str, Any]) -> bool:
        """Return whether this projection has a bias under a config whose defaults are filled in."""
        return bool(fields[self.bias]) if isinstance(self.bias, str) else self.bias

    def _axis(self, units: PrunedUnit | tuple[PrunedUnit, ...] | None) -> Axis:
        if units is None:
            return "hidden_size"
        return Features(units if isinstance(units, tuple) else (units,), self.layout)


class Count(enum.StrEnum):
    """A number that a module keeps as an attribute, and that changes when it is pruned."""

    QUERY_HEADS = "query_heads"
    KEY_VALUE_HEADS = "key_value_heads"
    QUERY_GROUP = "query_group"
    QUERY_FEATURES = "query_features"
    NEURONS = "neurons"


@dataclass(frozen=True)
class Block:
    """An attention or an MLP.

    Attributes:
        module: Module path below the layer; empty where the layer itself does the work.
        inputs: Its projections of the hidden state.
        output: Its projection back to the hidden state; what it is given is what AMP scores.
        tensors: Norms within it, their names below the layer.
        attributes: Counts that the module reads when it computes, by attribute; `config.NAME` is one of the module's
            own view of the config.
    """

    module: str
    inputs: tuple[Projection, ...]
    output: Projection
    tensors: tuple[Tensor, ...] = ()
    attributes: Mapping[str, Count] = field(default_factory=dict)

    @property
    def has_experts(self) -> bool:
        """Whether there are several of it, each with neurons of its own."""
        return self.output.stacked is not None

    def all_tensors(self) -> Iterator[Tensor]:
        """Yield every tensor of the block."""
        for projection in (*self.inputs, self.output):
            yield from projection.tensors()
        yield from self.tensors


@dataclass(frozen=True)
class Derived:
    """A config field that follows from others.

    Attributes:
        field: The field.
        value: A number, the name of the field that it equals, or a name and what to multiply it with.
        when: When it does; by default where it is not given.
    """

    field: str
    value: int | str | tuple[str, int]
    when: Conditions | None = None

    def of(self, fields: Mapping[str, Any]) -> Any:
        """Return the value under a config."""
        if isinstance(self.value, tuple):
            name, factor = self.value
            return fields[name] * factor
        return fields[self.value] if isinstance(self.value, str) else self.value


@dataclass(frozen=True)
class Sibling:
    """Another class that computes the same from the same weights, bit for bit.

    Attributes:
        model_type: The sibling's `model_type`.
        requires: Config fields, with the values they must have for the two to agree.
        sets: Config fields that the sibling needs set for the two to agree.
    """

    model_type: str
    requires: Conditions = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """Layers of one kind, one after the other.

    Attributes:
        layers: Module path of the layers.
        attention: The attention of a layer.
        mlp: The MLP of a layer, or None where another stack over the same layers has it.
        norms: The norms of a layer, as tensors.
        names: The config fields that say the sizes of this stack, where they differ from the architecture's.
        heads_tied: Whether all layers must keep the same heads, because the first one's positions serve all of them.
        is_decoder: Whether its tokens are those that are written, not those that are read.
    """

    layers: str
    attention: Block
    mlp: Block | None
    norms: tuple[Tensor, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    heads_tied: bool = False
    is_decoder: bool = False

    def tensors(self, number: int) -> Iterator[Tensor]:
        """Yield every tensor of one layer, in the order of the computation."""
        blocks = (self.attention,) if self.mlp is None else (self.attention, self.mlp)
        for block in blocks:
            yield from (tensor for tensor in block.all_tensors() if number == 0 or not tensor.first_layer_only)
        yield from self.norms


@dataclass(frozen=True)
class Architecture:
    """All that is known of one `model_type`. Names of weights are those of transformers.

    Attributes:
        model_type: The `model_type` of its configs, and the name of its file.
        class_name: The transformers class with a language model head.
        defaults: What transformers assumes for config fields that a config.json may leave out. `None` marks a field
            that is derived or off.
        attention: The attention of a layer.
        mlp: The MLP of a layer.
        norms: The norms of a layer, as tensors.
        tensors: What lies outside the layers; empty where transformers alone knows what files call things.
        computation: What it computes; None where a graph cannot be built directly.
        kind: What the model does with its input.
        modality: What that input is.
        generation_task: What the Auto class for conditional generation is called for this family.
        more_stacks: Layers of other kinds, after those of the first.
        names: The config fields whose names differ from the canonical ones, by canonical name. None says that there is
            no such field: heads then have their own keys, and `head_dim` follows from the hidden size.
        derived: Config fields that follow from others.
        ignored: Config fields of this family that change nothing about what it computes.
        refused: Config fields with values that are not supported, such as `{"alibi": (True,)}`.
        required: Config fields with the only values that are supported.
        says_head_dim_when: When a config with `head_dim` is obeyed; None is never.
        hidden_size_divisible_by_heads: Whether the config class refuses other head counts, even with `head_dim` set.
        windows_every_layer: Whether `sliding_window`, if set, holds for all layers without being switched on.
        siblings: Classes that can say what this one cannot, in order of preference.
        heads_tied: See `Stack`.
        positions_after_padding: Whether positions begin after the padding token's number, so that the table of
            positions has room for so many fewer tokens.
        base_model: Module path of the model below the head; a class without a head is that model itself.
        layers: Module path of the layers.
        head: Name of the head's module in files; None where there is none.
        module_names: Modules whose names in memory differ from those in files, by their names in files.
        obsolete: Ends of tensor names that old checkpoints hold and nothing reads.
    """

    model_type: str
    class_name: str
    defaults: Mapping[str, Any]
    attention: Block
    mlp: Block
    norms: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...] = ()
    computation: Computation | None = None
    kind: Kind = Kind.DECODER
    modality: Modality = Modality.TEXT
    generation_task: str = "ForSeq2SeqLM"
    more_stacks: tuple[Stack, ...] = ()
    names: Mapping[str, str | None] = field(default_factory=dict)
    derived: tuple[Derived, ...] = ()
    ignored: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    required: Conditions = field(default_factory=dict)
    says_head_dim_when: Conditions | None = field(default_factory=dict)
    hidden_size_divisible_by_heads: bool = False
    windows_every_layer: bool = False
    siblings: tuple[Sibling, ...] = ()
    heads_tied: bool = False
    positions_after_padding: bool = False
    base_model: str = "model"
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    module_names: Mapping[str, str] = field(default_factory=dict)
    obsolete: tuple[str, ...] = ("rotary_emb.inv_freq",)

    def field_name(self, canonical: str) -> str | None:
        """Return the config field of this family that says `canonical`."""
        return self.names.get(canonical, canonical)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All layers, in the order in which a plan counts them."""
        first = Stack(self.layers, self.attention, self.mlp, self.norms, heads_tied=self.heads_tied)
        return (first, *self.more_stacks)

    @property
    def knows_files(self) -> bool:
        """Whether the names of all tensors in files are known here, so that they can be read without transformers."""
        return bool(self.tensors)
