"""Arcee AFM: Llama with a plain MLP whose activation is a squared ReLU."""

from __future__ import annotations

from amp_export.architectures._computation import Computation
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import LLAMA_NORMS, LLAMA_TENSORS, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="arcee",
    class_name="ArceeForCausalLM",
    # `configuration_arcee.py` and `modeling_arcee.py`, transformers 5.24
    defaults={
        "vocab_size": 32000,
        "hidden_size": 2560,
        "intermediate_size": 18432,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "relu2",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=plain_mlp("mlp.up_proj", "mlp.down_proj", bias="mlp_bias"),
    norms=LLAMA_NORMS,
    tensors=LLAMA_TENSORS,
    computation=Computation(),
    hidden_size_divisible_by_heads=True,
)
