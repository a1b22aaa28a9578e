"""Data classes for the facts about an architecture."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amp_export.architectures._blocks import Block, Tensor
from amp_export.architectures._computation import Computation, Conditions
from amp_export.architectures._derived import Derived
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layer_rules import LayerRule
from amp_export.architectures._waveforms import Convolutions

if TYPE_CHECKING:
    from amp_export.architectures._mixers import Mixer

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
"""Config fields of any family that do not affect what a trained model computes, or that name its tokens."""


class Kind(enum.StrEnum):
    """Kind of model by its use of the input."""

    DECODER = "decoder"
    """Generates text token by token."""
    ENCODER = "encoder"
    """Encodes a text, an image or audio in a single pass."""
    ENCODER_DECODER = "encoder-decoder"
    """Encodes an input and generates text from it."""


class Modality(enum.StrEnum):
    """Modality of a model's input."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"


AUTO_TASKS = {(Modality.AUDIO, "SequenceClassification"): "AudioClassification"}
"""Tasks that Auto classes have another word for: `MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES`, `modeling_auto.py`,
transformers 5.24."""


@dataclass(frozen=True)
class Sibling:
    """Another model class that computes bit-identical results from the same weights.

    Attributes:
        model_type: The sibling's `model_type`.
        requires: Config fields, with the values they must have for the two to agree.
        sets: Config fields to set in the sibling's config for the two to agree.
    """

    model_type: str
    requires: Conditions = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """A sequence of layers of one kind.

    Attributes:
        layers: Module path of the layers.
        attention: The attention of a layer, or None if only something else mixes the tokens, which stays as it is.
        mlp: The MLP of a layer, or None if it stays as it is, or belongs to another stack over the same layers.
        norms: The norms of a layer, as tensors.
        mixer: What mixes the tokens in place of attention or beside it; None if there is none, or only transformers
            knows it.
        names: Config fields with the sizes of this stack, where they differ from the architecture's.
        heads_tied: Whether all layers must keep the same heads, because they share the first layer's position biases.
        is_decoder: Whether it is part of the decoder of an encoder-decoder model.
    """

    layers: str
    attention: Block | None
    mlp: Block | None
    norms: tuple[Tensor, ...] = ()
    mixer: Mixer | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    heads_tied: bool = False
    is_decoder: bool = False

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that pruning may narrow, in the order in which they run."""
        return tuple(block for block in (self.attention, self.mlp) if block is not None)

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        """The blocks that it has, in the order in which they run."""
        return tuple(block for block in (self.attention, self.mixer, self.mlp) if block is not None)

    @property
    def mixing(self) -> tuple[Block, ...]:
        """What mixes the tokens: attention, a mixer, or both; nothing if that stays and is not known."""
        return tuple(block for block in (self.attention, self.mixer) if block is not None)

    def tensors(self, number: int) -> Iterator[Tensor]:
        """Yield every tensor of one layer."""
        for block in self.all_blocks:
            yield from (tensor for tensor in block.all_tensors() if number == 0 or not tensor.first_layer_only)
        yield from self.norms


@dataclass(frozen=True)
class Architecture:
    """The facts about one `model_type`. Weights have their names in transformers.

    Attributes:
        model_type: The `model_type` of its configs, and with `_` for `-` the name of its file.
        class_name: The default transformers class.
        more_classes: Further supported classes, apart from those that all encoders of its kind have.
        defaults: transformers' defaults for config fields that a config.json may omit. `None` marks a field that is
            derived or off.
        parts: Config fields that hold a config of their own, whose fields are named like `encoder.hidden_size`.
        attention: The attention of a layer.
        mlp: The MLP of a layer.
        norms: The norms of a layer, as tensors.
        tensors: Tensors outside the layers; empty if only transformers knows the tensor names in the files.
        attention_layers: Which layers have the attention; None if all do.
        mlp_layers: Which layers have the MLP; None if all do. Where it has experts, plain MLPs stay as they are.
        mixer: What mixes the tokens of some layers in place of attention or beside it; None if attention alone does,
            or only transformers knows it.
        mixer_layers: Which layers have the mixer; None if those do that have no attention.
        keeps_states: Whether a cache also holds states of convolutions or recurrences, besides keys and values.
        shares_cache: Config field with the number of last layers, which attend to keys and values of others.
        computation: The computation; None if a graph cannot be built directly.
        kind: Kind of model.
        modality: Modality of its input.
        convolutions: What turns raw audio into frames; None if the model takes no raw audio.
        takes_patches: Whether it takes images of any size: for each a row of patches, [patches, values of a patch],
            which of them are real, and how many rows and columns they are of, each as an input of its own.
        named_as_bare: Whether the default class has a head for generation, although its name ends in `Model`.
        generation_task: Suffix of the family's Auto class for conditional generation.
        more_stacks: Further stacks of layers, after the first.
        names: Config fields whose names differ from the canonical ones, by canonical name. None means that there is no
            such field: each query head then has its own key/value head, and `head_dim` is derived from the hidden size.
        derived: Config fields derived from others.
        aliases: Canonical names of sizes by another config field with the same value, which counts if it is set.
        set_with_neurons: Config fields to set where another number of neurons is written.
        ignored: Config fields of this family that do not affect what it computes.
        refused: Config fields with unsupported values, such as `{"alibi": (True,)}`.
        required: Config fields with their only supported values.
        says_head_dim_when: Conditions under which `head_dim` in a config takes effect; None means never.
        says_neurons_when: Conditions under which the config can say another number of neurons; None means never.
        hidden_size_divisible_by_heads: Whether the config class rejects other head counts, even with `head_dim` set.
        embeds_padding: Whether the token embedding is built with the padding token's id, which must be one of its rows.
        latent_cache: Config fields whose sum is the number of cached values per token and layer, where a cache holds
            something other than keys and values.
        windows_every_layer: Whether `sliding_window`, if set, applies to all layers without a switch.
        siblings: Classes that can express configs that this one cannot, in order of preference.
        heads_tied: See `Stack`.
        heads_stay: Why no head can be removed, as a clause; None if heads can be.
        layers_follow_when: Conditions under which each layer runs once, on the output of the one before; None means
            never.
        positions_after_padding: Whether positions start after the padding token's id, which shortens the longest text
            by that many tokens.
        base_model: Module path of the model below the head; a class without a head is that model itself.
        layers: Module path of the layers.
        embedding: Module path of the token embedding.
        head: Name of the head's module in files.
        module_names: Modules whose names in memory differ from those in files, by their names in files.
        head_indices: Fields of generation_config.json that list pairs of layer and head, by the attention module whose
            query heads they name.
        obsolete: Suffixes of unused tensor names in old checkpoints.
        harmless: Whole parts of the names of tensors in files that not all classes of the family read: heads, poolers,
            and the other half of a larger model.
        other_prefixes: Prefixes of the names of tensors in files of larger models, by those that they stand for.
        gguf: What GGUF files of the family are written as; None if llama.cpp computes nothing that is known to match.
    """

    model_type: str
    class_name: str
    defaults: Mapping[str, Any]
    attention: Block
    mlp: Block
    norms: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...] = ()
    parts: tuple[str, ...] = ()
    attention_layers: LayerRule | None = None
    mlp_layers: LayerRule | None = None
    mixer: Mixer | None = None
    mixer_layers: LayerRule | None = None
    keeps_states: bool = False
    shares_cache: str | None = None
    computation: Computation | None = None
    kind: Kind = Kind.DECODER
    modality: Modality = Modality.TEXT
    convolutions: Convolutions | None = None
    takes_patches: bool = False
    named_as_bare: bool = False
    generation_task: str = "ForSeq2SeqLM"
    more_classes: tuple[str, ...] = ()
    more_stacks: tuple[Stack, ...] = ()
    names: Mapping[str, str | None] = field(default_factory=dict)
    derived: tuple[Derived, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    set_with_neurons: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    required: Conditions = field(default_factory=dict)
    says_head_dim_when: Conditions | None = field(default_factory=dict)
    says_neurons_when: Conditions | None = field(default_factory=dict)
    hidden_size_divisible_by_heads: bool = False
    embeds_padding: bool = True
    latent_cache: tuple[str, ...] = ()
    windows_every_layer: bool = False
    siblings: tuple[Sibling, ...] = ()
    heads_tied: bool = False
    heads_stay: str | None = None
    layers_follow_when: Conditions | None = field(default_factory=dict)
    positions_after_padding: bool = False
    base_model: str = "model"
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    module_names: Mapping[str, str] = field(default_factory=dict)
    head_indices: Mapping[str, str] = field(default_factory=dict)
    obsolete: tuple[str, ...] = ("rotary_emb.inv_freq",)
    harmless: tuple[str, ...] = ()
    other_prefixes: Mapping[str, str] = field(default_factory=dict)
    gguf: GgufRoutes | None = None

    def field_name(self, canonical: str) -> str | None:
        """Return this family's name for a canonical config field, or None if it has no such field."""
        return self.names.get(canonical, canonical)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks of layers, in the order of a plan's entries."""
        first = Stack(self.layers, self.attention, self.mlp, self.norms, self.mixer, heads_tied=self.heads_tied)
        return (first, *self.more_stacks)

    @property
    def knows_files(self) -> bool:
        """Whether the names of all tensors in files are known, so that they can be read without transformers."""
        return bool(self.tensors)
