"""Qwen3: an RMS norm on every query and key head, with a weight shared by all heads."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, HeadNorms, Windows
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import (
    LLAMA_NORMS,
    LLAMA_TENSORS,
    NORMS_OF_EACH_HEAD,
    gated_mlp,
    separate_attention,
)

ARCHITECTURE = Architecture(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
    },
    attention=separate_attention(bias="attention_bias", tensors=NORMS_OF_EACH_HEAD),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(
        head_norms=HeadNorms("self_attn.q_norm", "self_attn.k_norm"),
        windows=Windows(switch="use_sliding_window", from_layer="max_window_layers"),
    ),
    gguf=GgufRoutes("qwen3", varied="openelm"),
)
