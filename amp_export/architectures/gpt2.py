"""GPT-2: learned positions, transposed weights, queries, keys and values fused in blocks."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Count, Projection, PrunedUnit, Tensor
from amp_export.architectures._computation import AttentionScale, Computation, Learned, NormKind, Order
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import GPT2_NAMES, language_model, norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-05,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    attention=Block(
        module="attn",
        inputs=(
            Projection(
                "attn.c_attn",
                rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS),
                bias=True,
                transposed=True,
            ),
        ),
        output=Projection("attn.c_proj", columns=PrunedUnit.QUERY_HEADS, bias=True, transposed=True),
        # `GPT2Attention.forward`, `modeling_gpt2.py`, transformers 5.24.
        attributes={"split_size": Count.QUERY_FEATURES, "num_heads": Count.QUERY_HEADS},
    ),
    mlp=plain_mlp("mlp.c_fc", "mlp.c_proj", bias=True, transposed=True),
    norms=(*norm("ln_1", bias=True), *norm("ln_2", bias=True)),
    tensors=(
        *language_model("transformer.wte", norm("transformer.ln_f", bias=True)),
        Tensor("transformer.wpe.weight", ("max_position_embeddings", "hidden_size")),
    ),
    # `GPT2Attention.__init__`, `modeling_gpt2.py`, transformers 5.24; reorder_and_upcast_attn only changes the dtype.
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_epsilon",
        orders=(Order("ln_1", "ln_2"),),
        final_norm="transformer.ln_f",
        positions=Learned("transformer.wpe"),
        activation="activation_function",
        attention_scale=AttentionScale(switch="scale_attn_weights", by_layer="scale_attn_by_inverse_layer_idx"),
    ),
    names={**GPT2_NAMES, "num_key_value_heads": None},
    derived=(Derived("n_inner", ("n_embd", 4)),),
    ignored=frozenset(
        {
            "n_ctx",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
    refused={"add_cross_attention": (True,)},
    says_head_dim_when=None,
    embeds_padding=False,
    base_model="transformer",
    layers="transformer.h",
    embedding="transformer.wte",
    obsolete=(".attn.bias", ".attn.masked_bias"),
)
