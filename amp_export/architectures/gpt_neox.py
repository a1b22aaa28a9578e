"""GPT-NeoX and Pythia: queries, keys and values fused head by head, attention and MLP in parallel."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Layout, Projection, PrunedUnit
from amp_export.architectures._computation import Computation, NormKind, Order, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import language_model, norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="gpt_neox",
    class_name="GPTNeoXForCausalLM",
    defaults={
        "vocab_size": 50432,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "hidden_act": "gelu",
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "rope_parameters": None,
        "rotary_pct": 0.25,
        "attention_bias": True,
    },
    attention=Block(
        module="attention",
        inputs=(
            Projection(
                "attention.query_key_value",
                rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS),
                bias="attention_bias",
                layout=Layout.GROUPS,
            ),
        ),
        output=Projection("attention.dense", columns=PrunedUnit.QUERY_HEADS, bias="attention_bias"),
    ),
    mlp=plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", bias=True),
    norms=(*norm("input_layernorm", bias=True), *norm("post_attention_layernorm", bias=True)),
    tensors=language_model("gpt_neox.embed_in", norm("gpt_neox.final_layer_norm", bias=True), head="embed_out"),
    # `GPTNeoXLayer`, `modeling_gpt_neox.py`, and `configuration_gpt_neox.py`, transformers 5.24.
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_eps",
        orders=(
            Order("input_layernorm", "post_attention_layernorm", parallel=True, when={"use_parallel_residual": True}),
            Order("input_layernorm", "post_attention_layernorm"),
        ),
        final_norm="gpt_neox.final_layer_norm",
        positions=Rotary(theta=("rotary_emb_base", 10_000.0), partial="rotary_pct"),
    ),
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=frozenset({"is_decoder"}),
    says_head_dim_when=None,
    hidden_size_divisible_by_heads=True,
    embeds_padding=False,
    base_model="gpt_neox",
    layers="gpt_neox.layers",
    embedding="gpt_neox.embed_in",
    head="embed_out",
    module_names={"embed_out": "lm_head"},
    obsolete=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
)
