"""Ministral 3: Mistral with YaRN, whose queries grow beyond the original context."""

from __future__ import annotations

from amp_export.architectures._computation import AttentionScale, Computation
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="ministral3",
    class_name="Ministral3ForCausalLM",
    # `configuration_ministral3.py` and `modeling_ministral3.py`, transformers 5.24
    defaults={
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "type": "yarn",
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "max_position_embeddings": 262144,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        "sliding_window": None,
    },
    attention=separate_attention(bias=False),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(attention_scale=AttentionScale(by_position="llama_4_scaling_beta")),
    windows_every_layer=True,
)
