"""Falcon, old and new: queries, keys and values fused by key/value head; the first models have a single such head."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Count, Layout, Projection, PrunedUnit
from amp_export.architectures._computation import Computation, NormKind, Order
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import language_model, norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="falcon",
    class_name="FalconForCausalLM",
    defaults={
        "vocab_size": 65024,
        "hidden_size": 4544,
        "ffn_hidden_size": None,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "num_kv_heads": None,
        "num_ln_in_parallel_attn": None,
        "layer_norm_epsilon": 1e-05,
        "activation": "gelu",
        "alibi": False,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "max_position_embeddings": 2048,
        "rope_parameters": None,
        "tie_word_embeddings": True,
    },
    attention=Block(
        module="self_attention",
        inputs=(
            Projection(
                "self_attention.query_key_value",
                rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS),
                bias="bias",
                layout=Layout.GROUPS,
            ),
        ),
        output=Projection("self_attention.dense", columns=PrunedUnit.QUERY_HEADS, bias="bias"),
        attributes={"num_heads": Count.QUERY_HEADS, "num_kv_heads": Count.KEY_VALUE_HEADS},
    ),
    mlp=plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", bias="bias"),
    # `FalconDecoderLayer.__init__`, `modeling_falcon.py`, transformers 5.24.
    norms=(
        *norm("input_layernorm", bias=True, when={"num_ln_in_parallel_attn": 1}),
        *norm("post_attention_layernorm", bias=True, when={"parallel_attn": False}),
        *norm("ln_attn", bias=True, when={"num_ln_in_parallel_attn": 2}),
        *norm("ln_mlp", bias=True, when={"num_ln_in_parallel_attn": 2}),
    ),
    tensors=language_model("transformer.word_embeddings", norm("transformer.ln_f", bias=True)),
    # `FalconDecoderLayer.forward`, `modeling_falcon.py`, transformers 5.24.
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_epsilon",
        orders=(
            Order("input_layernorm", "post_attention_layernorm", when={"parallel_attn": False}),
            Order("ln_attn", "ln_mlp", parallel=True, when={"num_ln_in_parallel_attn": 2}),
            Order("input_layernorm", "input_layernorm", parallel=True),
        ),
        final_norm="transformer.ln_f",
        activation="activation",
    ),
    names={"intermediate_size": "ffn_hidden_size", "num_key_value_heads": "num_kv_heads", "head_dim": None},
    derived=(
        Derived("ffn_hidden_size", ("hidden_size", 4)),
        Derived("num_kv_heads", "num_attention_heads"),
        Derived("num_kv_heads", "num_attention_heads", {"multi_query": False, "new_decoder_architecture": False}),
        Derived("num_kv_heads", 1, {"multi_query": True, "new_decoder_architecture": False}),
        Derived("num_ln_in_parallel_attn", 2, {"num_ln_in_parallel_attn": None, "new_decoder_architecture": True}),
        Derived("num_ln_in_parallel_attn", 1),
        Derived("num_ln_in_parallel_attn", 1, {"parallel_attn": False}),
    ),
    ignored=frozenset({"n_embed"}),
    # ALiBi's slopes depend on a head's index, which pruning would change
    refused={"alibi": (True,)},
    says_head_dim_when=None,
    embeds_padding=False,
    base_model="transformer",
    layers="transformer.h",
    embedding="transformer.word_embeddings",
)
