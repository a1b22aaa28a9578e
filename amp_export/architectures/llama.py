"""Llama 1 to 3 and models that share their class, such as SmolLM2."""

from __future__ import annotations

from amp_export.architectures._computation import Computation
from amp_export.architectures._facts import Architecture, Sibling
from amp_export.architectures._gguf import GgufRoutes
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
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
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(bias="mlp_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(),
    ignored=frozenset({"pretraining_tp"}),
    hidden_size_divisible_by_heads=True,
    # Mistral is Llama with a sliding window and without biases: `modular_mistral.py`, transformers 5.23.
    siblings=(
        Sibling(
            "mistral",
            requires={"attention_bias": False, "mlp_bias": False},
            sets={"sliding_window": None},
        ),
    ),
    gguf=GgufRoutes("llama", varied="deci"),
)
