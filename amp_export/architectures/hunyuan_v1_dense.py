"""Hunyuan dense: Llama with a norm on every rotated query and key head."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, head_norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="hunyuan_v1_dense",
    class_name="HunYuanDenseV1ForCausalLM",
    defaults={
        "vocab_size": 290943,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
    },
    attention=separate_attention(
        bias="attention_bias",
        tensors=(*head_norm("self_attn.query_layernorm"), *head_norm("self_attn.key_layernorm")),
    ),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    # `HunYuanDenseV1Attention.forward` and `HunYuanDenseV1RotaryEmbedding`, transformers 5.24
    computation=Computation(
        head_norms=HeadNorms("self_attn.query_layernorm", "self_attn.key_layernorm", after_rotation=True),
        positions=Rotary(renamed={"dynamic": "ntk_alpha"}),
    ),
    ignored=frozenset({"eod_token_id", "pretraining_tp"}),
)
