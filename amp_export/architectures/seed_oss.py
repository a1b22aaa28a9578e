"""Seed-OSS: Llama with biases on queries, keys and values."""

from __future__ import annotations

from amp_export.architectures._computation import Computation
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="seed_oss",
    class_name="SeedOssForCausalLM",
    # `configuration_seed_oss.py` and `modeling_seed_oss.py`, transformers 5.24
    defaults={
        "vocab_size": 155136,
        "hidden_size": 4096,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 80,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 524288,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": True,
        "attention_out_bias": False,
        "mlp_bias": False,
    },
    attention=separate_attention(bias="attention_bias", output_bias="attention_out_bias"),
    mlp=gated_mlp(bias="mlp_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(),
    ignored=frozenset({"pretraining_tp"}),
)
