"""ERNIE 4.5: Llama with interleaved rotary embeddings."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="ernie4_5",
    class_name="Ernie4_5ForCausalLM",
    # `configuration_ernie4_5.py` and `modeling_ernie4_5.py`, transformers 5.24
    defaults={
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "use_bias": False,
    },
    attention=separate_attention(bias="use_bias"),
    mlp=gated_mlp(bias="use_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(positions=Rotary(theta=("rope_theta", 500_000.0), interleaved=True)),
)
