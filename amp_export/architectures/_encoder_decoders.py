"""Layouts that several encoder-decoders share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amp_export.architectures._blocks import Block, Count, Features, Projection, PrunedUnit, Tensor
from amp_export.architectures._facts import Stack
from amp_export.architectures._layouts import gated_mlp, norm, plain_mlp, separate_attention


@dataclass(frozen=True)
class Layers:
    """The layers of both stacks of an encoder-decoder.

    Attributes:
        attention: The attention of an encoder layer.
        mlp: The MLP of an encoder layer.
        norms: The norms of an encoder layer.
        more_stacks: The decoder: its self-attention with the MLP, and its cross-attention.
    """

    attention: Block
    mlp: Block
    norms: tuple[Tensor, ...]
    more_stacks: tuple[Stack, ...]


def bart_layers(*, key_bias: bool = True) -> Layers:
    """Return the layers of `BartModel`, `modeling_bart.py`, transformers 5.24.

    Args:
        key_bias: Whether the projection to keys has a bias.
    """

    def attention(module: str) -> Block:
        return Block(
            module=module,
            inputs=(
                Projection(f"{module}.q_proj", rows=PrunedUnit.QUERY_HEADS, bias=True),
                Projection(f"{module}.k_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias=key_bias),
                Projection(f"{module}.v_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
            ),
            output=Projection(f"{module}.out_proj", columns=PrunedUnit.QUERY_HEADS, bias=True),
            attributes={"num_heads": Count.QUERY_HEADS},
        )

    mlp = plain_mlp("fc1", "fc2", bias=True)
    norms = (*norm("self_attn_layer_norm", bias=True), *norm("final_layer_norm", bias=True))
    names = {"num_hidden_layers": "decoder_layers", "num_attention_heads": "decoder_attention_heads"}
    decoder = Stack(
        layers="model.decoder.layers",
        attention=attention("self_attn"),
        mlp=mlp,
        norms=norms,
        names={**names, "intermediate_size": "decoder_ffn_dim"},
        is_decoder=True,
    )
    cross = Stack(
        layers="model.decoder.layers",
        attention=attention("encoder_attn"),
        mlp=None,
        norms=norm("encoder_attn_layer_norm", bias=True),
        names=names,
        is_decoder=True,
    )
    return Layers(attention("self_attn"), mlp, norms, (decoder, cross))


BART_NAMES: Mapping[str, str | None] = {
    "hidden_size": "d_model",
    "intermediate_size": "encoder_ffn_dim",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "num_key_value_heads": None,
    "head_dim": None,
}

BART_DEFAULTS: Mapping[str, Any] = {
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "max_position_embeddings": 1024,
    "scale_embedding": False,
    "tie_word_embeddings": True,
}

BART_IGNORED = frozenset(
    {"decoder_layerdrop", "encoder_layerdrop", "forced_eos_token_id", "is_decoder", "num_hidden_layers"}
)


def t5_layers(*, biases_in_each_layer: bool = False) -> Layers:
    """Return the layers of `T5Model`, `modeling_t5.py`, transformers 5.24.

    Args:
        biases_in_each_layer: Whether each layer has position biases of its own; otherwise, the first layer has those of
            all layers, so that their heads must be the same.
    """

    def attention(module: str, *, biased: bool) -> Block:
        biases = _t5_biases(module, first_layer_only=not biases_in_each_layer)
        return _t5_attention(module, (biases,) if biased else ())

    own, cross, names = "layer.0.SelfAttention", "layer.1.EncDecAttention", {"num_hidden_layers": "num_decoder_layers"}
    # without biases, the first layer of cross-attention creates zeros of their shape for all layers
    is_tied = not biases_in_each_layer
    more = (
        Stack(
            layers="decoder.block",
            attention=attention(own, biased=True),
            mlp=_t5_mlp("layer.2.DenseReluDense"),
            norms=(*norm("layer.0.layer_norm"), *norm("layer.2.layer_norm")),
            names=names,
            heads_tied=is_tied,
            is_decoder=True,
        ),
        Stack(
            layers="decoder.block",
            attention=attention(cross, biased=False),
            mlp=None,
            norms=norm("layer.1.layer_norm"),
            names=names,
            heads_tied=is_tied,
            is_decoder=True,
        ),
    )
    norms = (*norm("layer.0.layer_norm"), *norm("layer.1.layer_norm"))
    return Layers(attention(own, biased=True), _t5_mlp("layer.1.DenseReluDense"), norms, more)


def _t5_biases(module: str, *, first_layer_only: bool) -> Tensor:
    heads = Features((PrunedUnit.QUERY_HEADS,), entries_per_head=1)
    name = f"{module}.relative_attention_bias.weight"
    return Tensor(name, ("relative_attention_num_buckets", heads), first_layer_only=first_layer_only)


def _t5_attention(module: str, tensors: tuple[Tensor, ...]) -> Block:
    """Return `T5Attention`."""
    return Block(
        module=module,
        inputs=(
            Projection(f"{module}.q", rows=PrunedUnit.QUERY_HEADS),
            Projection(f"{module}.k", rows=PrunedUnit.KEY_VALUE_HEADS),
            Projection(f"{module}.v", rows=PrunedUnit.KEY_VALUE_HEADS),
        ),
        output=Projection(f"{module}.o", columns=PrunedUnit.QUERY_HEADS),
        tensors=tensors,
        attributes={"n_heads": Count.QUERY_HEADS, "inner_dim": Count.QUERY_FEATURES},
    )


def _t5_mlp(module: str) -> Block:
    """Return `T5DenseActDense` and `T5DenseGatedActDense`."""
    gated = {"feed_forward_proj": ("gated-gelu", "gated-silu", "gated-relu")}
    plain = {"feed_forward_proj": ("relu", "gelu", "silu")}
    return Block(
        module=module,
        inputs=(
            Projection(f"{module}.wi", rows=PrunedUnit.NEURONS, when=plain),
            Projection(f"{module}.wi_0", rows=PrunedUnit.NEURONS, when=gated),
            Projection(f"{module}.wi_1", rows=PrunedUnit.NEURONS, when=gated),
        ),
        output=Projection(f"{module}.wo", columns=PrunedUnit.NEURONS),
    )


T5_NAMES: Mapping[str, str | None] = {
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": None,
    "head_dim": "d_kv",
}

T5_IGNORED = frozenset({"dense_act_fn", "dropout_rate", "is_decoder", "is_gated_act", "n_positions", "output_past"})


_T5GEMMA_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "vocab_size", "max_position_embeddings"),
)

T5GEMMA_PARTS: Mapping[str, Any] = {
    f"{part}.{name}": value
    for part in ("encoder", "decoder")
    # `T5GemmaModuleConfig`, `configuration_t5gemma.py`, transformers 5.24
    for name, value in {
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 2,
        "rope_parameters": None,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    }.items()
}

# the parts have a vocabulary of their own, and `T5GemmaConfig` sets the other fields of its parts
T5GEMMA_IGNORED = frozenset(
    {
        *("classifier_dropout_rate", "dropout_rate", "vocab_size", "decoder.cross_attention_hidden_size"),
        *(f"{part}.{name}" for part in ("encoder", "decoder") for name in ("dropout_rate", "is_decoder")),
        *("encoder.tie_word_embeddings", "decoder.tie_word_embeddings"),
    }
)


def t5gemma_names(part: str) -> dict[str, str]:
    """Return the names of the sizes of a part."""
    return {name: f"{part}.{name}" for name in _T5GEMMA_SIZES}


def t5gemma_layers() -> Layers:
    """Return the layers of `T5GemmaModel`, `modeling_t5gemma.py`, transformers 5.24."""

    def norms(*blocks: str) -> tuple[Tensor, ...]:
        return tuple(
            tensor for block in blocks for place in ("pre", "post") for tensor in norm(f"{place}_{block}_layernorm")
        )

    own, names = norms("self_attn", "feedforward"), t5gemma_names("decoder")
    layers = "model.decoder.layers"
    attention = separate_attention(bias="encoder.attention_bias")
    written = separate_attention(bias="decoder.attention_bias")
    cross = separate_attention(module="cross_attn", bias="decoder.attention_bias")
    more = (
        Stack(layers=layers, attention=written, mlp=gated_mlp(), norms=own, names=names, is_decoder=True),
        Stack(layers=layers, attention=cross, mlp=None, norms=norms("cross_attn"), names=names, is_decoder=True),
    )
    return Layers(attention, gated_mlp(), own, more)
