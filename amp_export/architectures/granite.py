"""Granite 3: Llama with multipliers on embeddings, attention, residuals and logits."""

from __future__ import annotations

from amp_export.architectures._computation import AttentionScale, Computation, Factor
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="granite",
    class_name="GraniteForCausalLM",
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(bias="mlp_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    # `modeling_granite.py`, transformers 5.24.
    computation=Computation(
        attention_scale=AttentionScale(Factor("attention_multiplier")),
        embedding_factor=Factor("embedding_multiplier"),
        scales_all_embeddings=True,
        residual_factor=Factor("residual_multiplier"),
        logit_factor=Factor("logits_scaling", -1.0),
    ),
    gguf=GgufRoutes("granite"),
)
