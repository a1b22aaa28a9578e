"""Gemma 1: Llama with scaled embeddings, norms scaled by 1 + weight, and wide heads."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, Factor, NormKind
from amp_export.architectures._facts import Architecture
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="gemma",
    class_name="GemmaForCausalLM",
    defaults={
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True,
        "rope_parameters": None,
        "attention_bias": False,
        "use_bidirectional_attention": None,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    # `GemmaConfig.__post_init__` and `GemmaModel`, transformers 5.24.
    computation=Computation(
        norm=NormKind.RMS_FROM_ONE,
        activation_names={"gelu": "gelu_pytorch_tanh"},
        embedding_factor=Factor("hidden_size", 0.5),
    ),
    # another name of hidden_act in old configs
    ignored=frozenset({"hidden_activation"}),
    refused={"use_bidirectional_attention": (True,)},
    gguf=GgufRoutes("gemma"),
)
