"""Mistral 7B and models that share its class."""

from __future__ import annotations

from amp_export.architectures._computation import Computation
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="mistral",
    class_name="MistralForCausalLM",
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "sliding_window": 4096,
    },
    attention=separate_attention(bias=False),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(),
    windows_every_layer=True,
    gguf=GgufRoutes("llama", varied="deci"),
)
