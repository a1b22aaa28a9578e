"""StableLM: Llama with layer norms and partial rotary embeddings."""

from __future__ import annotations

from amp_export.architectures._blocks import Count
from amp_export.architectures._computation import Computation, NormKind, Order, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import gated_mlp, language_model, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="stablelm",
    class_name="StableLmForCausalLM",
    defaults={
        "vocab_size": 50304,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "partial_rotary_factor": 0.25,
        "use_qkv_bias": False,
        "qk_layernorm": False,
        "use_parallel_residual": False,
    },
    # `StableLmAttention.forward`, `modeling_stablelm.py`, transformers 5.24.
    attention=separate_attention(
        bias="use_qkv_bias",
        output_bias=False,
        attributes={
            "num_heads": Count.QUERY_HEADS,
            "num_key_value_heads": Count.KEY_VALUE_HEADS,
            "num_key_value_groups": Count.QUERY_GROUP,
        },
    ),
    mlp=gated_mlp(),
    norms=(
        *norm("input_layernorm", bias=True),
        *norm("post_attention_layernorm", bias=True, when={"use_parallel_residual": False}),
    ),
    tensors=language_model("model.embed_tokens", norm("model.norm", bias=True)),
    computation=Computation(
        norm=NormKind.LAYER,
        epsilon="layer_norm_eps",
        orders=(
            Order("input_layernorm", "input_layernorm", parallel=True, when={"use_parallel_residual": True}),
            Order("input_layernorm", "post_attention_layernorm"),
        ),
        positions=Rotary(partial="partial_rotary_factor"),
    ),
    names={"head_dim": None},
    # a list of norm modules, one per head, which is not sliced yet
    refused={"qk_layernorm": (True,)},
    says_head_dim_when=None,
)
