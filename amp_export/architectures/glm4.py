"""GLM-4-0414: GLM with norms after attention and MLP, too."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Order, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, fused_gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="glm4",
    class_name="Glm4ForCausalLM",
    defaults={
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-07,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
    },
    attention=separate_attention(bias="attention_bias", output_bias=False),
    mlp=fused_gated_mlp(),
    norms=(*LLAMA_NORMS, *norm("post_self_attn_layernorm"), *norm("post_mlp_layernorm")),
    tensors=LLAMA_TENSORS,
    # `Glm4DecoderLayer.forward`, `modeling_glm4.py`, transformers 5.24
    computation=Computation(
        orders=(
            Order(
                "input_layernorm",
                "post_attention_layernorm",
                after_attention="post_self_attn_layernorm",
                after_mlp="post_mlp_layernorm",
            ),
        ),
        positions=Rotary(partial="partial_rotary_factor", interleaved=True),
    ),
)
