"""Helium: Llama with interleaved rotary embeddings, whose output projection is as wide as the hidden size."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="helium",
    class_name="HeliumForCausalLM",
    defaults={
        "vocab_size": 48000,
        "hidden_size": 2560,
        "intermediate_size": 7040,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-8,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
    },
    attention=separate_attention(bias="attention_bias", output_bias=False),
    mlp=gated_mlp(bias="mlp_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(positions=Rotary(theta=("rope_theta", 100_000.0), interleaved=True)),
    # `HeliumAttention.__init__`, `modeling_helium.py`, transformers 5.24: the heads must fill the hidden size
    says_head_dim_when=None,
)
