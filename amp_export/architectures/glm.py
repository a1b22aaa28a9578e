"""GLM-4 of 2024: gate and up fused, and interleaved rotary embeddings of half a head."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, fused_gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="glm",
    class_name="GlmForCausalLM",
    # `configuration_glm.py` and `modeling_glm.py`, transformers 5.24
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
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(positions=Rotary(partial="partial_rotary_factor", interleaved=True)),
)
