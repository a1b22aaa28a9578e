"""BLOOM: ALiBi instead of positions; queries, keys and values fused head by head."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Layout, Projection, PrunedUnit
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="bloom",
    class_name="BloomForCausalLM",
    defaults={
        "vocab_size": 250880,
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 8,
        "layer_norm_epsilon": 1e-5,
        "apply_residual_connection_post_layernorm": False,
        "slow_but_exact": False,
        "tie_word_embeddings": True,
    },
    attention=Block(
        module="self_attention",
        inputs=(
            Projection(
                "self_attention.query_key_value",
                rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS),
                bias=True,
                layout=Layout.GROUPS,
            ),
        ),
        output=Projection("self_attention.dense", columns=PrunedUnit.QUERY_HEADS, bias=True),
    ),
    mlp=plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", bias=True),
    norms=(*norm("input_layernorm", bias=True), *norm("post_attention_layernorm", bias=True)),
    names={
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": None,
        "head_dim": None,
    },
    # `BloomMLP.__init__`, `modeling_bloom.py`, transformers 5.24
    derived=(Derived("intermediate_size", ("hidden_size", 4), {}),),
    ignored=frozenset({"pretraining_tp"}),
    # cuts the weights into as many parts as they had in training
    required={"slow_but_exact": False},
    heads_stay="its position biases follow from the index of a head",
    says_head_dim_when=None,
    says_neurons_when=None,
    embeds_padding=False,
    base_model="transformer",
    layers="transformer.h",
    embedding="transformer.word_embeddings",
)
