"""StarCoder and SantaCoder: GPT-2 whose query heads share one key/value head."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Count, Projection, PrunedUnit, Tensor
from amp_export.architectures._computation import AttentionScale, Computation, Learned, NormKind, Order
from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import GPT2_NAMES, GROUP_ATTRIBUTE, language_model, norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="gpt_bigcode",
    class_name="GPTBigCodeForCausalLM",
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "num_key_value_heads": None,
        "n_inner": None,
        "activation_function": "gelu_pytorch_tanh",
        "layer_norm_epsilon": 1e-05,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "multi_query": True,
        "add_cross_attention": False,
    },
    attention=Block(
        module="attn",
        inputs=(
            Projection(
                "attn.c_attn",
                rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS),
                bias=True,
            ),
        ),
        output=Projection("attn.c_proj", columns=PrunedUnit.QUERY_HEADS, bias=True),
        # `GPTBigCodeAttention.forward`, `modeling_gpt_bigcode.py`, transformers 5.24
        attributes={**GROUP_ATTRIBUTE, "embed_dim": Count.QUERY_FEATURES},
    ),
    mlp=plain_mlp("mlp.c_fc", "mlp.c_proj", bias=True),
    norms=(*norm("ln_1", bias=True), *norm("ln_2", bias=True)),
    tensors=(
        *language_model("transformer.wte", norm("transformer.ln_f", bias=True)),
        Tensor("transformer.wpe.weight", ("max_position_embeddings", "hidden_size")),
    ),
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_epsilon",
        orders=(Order("ln_1", "ln_2"),),
        final_norm="transformer.ln_f",
        positions=Learned("transformer.wpe"),
        activation="activation_function",
        attention_scale=AttentionScale(switch="scale_attn_weights"),
    ),
    names=GPT2_NAMES,
    derived=(Derived("n_inner", ("n_embd", 4)), Derived("num_key_value_heads", 1, {})),
    # they choose the dtype of the softmax
    ignored=frozenset({"attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"}),
    # without a shared key, the projection has another layout
    required={"multi_query": True},
    refused={"add_cross_attention": (True,)},
    says_head_dim_when=None,
    embeds_padding=False,
    base_model="transformer",
    layers="transformer.h",
    embedding="transformer.wte",
    obsolete=(".attn.bias", ".attn.masked_bias"),
)
