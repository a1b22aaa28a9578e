"""T5: an encoder-decoder whose first layers hold the position biases of all layers."""

from __future__ import annotations

from amp_export.architectures._facts import (
    Architecture,
    Block,
    Count,
    Derived,
    Features,
    Kind,
    Projection,
    PrunedUnit,
    Stack,
    Tensor,
)
from amp_export.architectures._layouts import norm

_GATED = ("gated-gelu", "gated-silu", "gated-relu")
_PLAIN = ("relu", "gelu", "silu")


def _attention(module: str, *tensors: Tensor) -> Block:
    """Return `T5Attention`, `modeling_t5.py`, transformers 5.24."""
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


def _position_biases(module: str) -> Tensor:
    heads = Features((PrunedUnit.QUERY_HEADS,), entries_per_head=1)
    return Tensor(
        f"{module}.relative_attention_bias.weight", ("relative_attention_num_buckets", heads), first_layer_only=True
    )


def _mlp(module: str) -> Block:
    """Return `T5DenseActDense` and `T5DenseGatedActDense`."""
    return Block(
        module=module,
        inputs=(
            Projection(f"{module}.wi", rows=PrunedUnit.NEURONS, when={"feed_forward_proj": _PLAIN}),
            Projection(f"{module}.wi_0", rows=PrunedUnit.NEURONS, when={"feed_forward_proj": _GATED}),
            Projection(f"{module}.wi_1", rows=PrunedUnit.NEURONS, when={"feed_forward_proj": _GATED}),
        ),
        output=Projection(f"{module}.wo", columns=PrunedUnit.NEURONS),
    )


_SELF = "layer.0.SelfAttention"
_CROSS = "layer.1.EncDecAttention"

ARCHITECTURE = Architecture(
    model_type="t5",
    class_name="T5ForConditionalGeneration",
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "scale_decoder_outputs": True,
        "tie_word_embeddings": True,
    },
    attention=_attention(_SELF, _position_biases(_SELF)),
    mlp=_mlp("layer.1.DenseReluDense"),
    norms=(*norm("layer.0.layer_norm"), *norm("layer.1.layer_norm")),
    kind=Kind.ENCODER_DECODER,
    more_stacks=(
        Stack(
            layers="decoder.block",
            attention=_attention(_SELF, _position_biases(_SELF)),
            mlp=_mlp("layer.2.DenseReluDense"),
            norms=(*norm("layer.0.layer_norm"), *norm("layer.2.layer_norm")),
            names={"num_hidden_layers": "num_decoder_layers"},
            heads_tied=True,
            is_decoder=True,
        ),
        Stack(
            layers="decoder.block",
            attention=_attention(_CROSS),
            mlp=None,
            norms=norm("layer.1.layer_norm"),
            names={"num_hidden_layers": "num_decoder_layers"},
            # there are no biases here, but the first layer creates zeros of their shape for all layers
            heads_tied=True,
            is_decoder=True,
        ),
    ),
    names={
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": None,
        "head_dim": "d_kv",
    },
    derived=(Derived("num_decoder_layers", "num_layers"),),
    ignored=frozenset({"dense_act_fn", "dropout_rate", "is_decoder", "is_gated_act", "n_positions", "output_past"}),
    heads_tied=True,
    embeds_padding=False,
    base_model="",
    layers="encoder.block",
)
