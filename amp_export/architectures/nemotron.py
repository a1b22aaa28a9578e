"""Nemotron 4 and Minitron: layer norms that count from one, and an MLP with a squared ReLU."""

from __future__ import annotations

from amp_export.architectures._computation import Computation, NormKind, Rotary
from amp_export.architectures._facts import Architecture
from amp_export.architectures._layouts import language_model, norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="nemotron",
    class_name="NemotronForCausalLM",
    defaults={
        "vocab_size": 256000,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 32,
        "num_attention_heads": 48,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "relu2",
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "partial_rotary_factor": 0.5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=plain_mlp("mlp.up_proj", "mlp.down_proj", bias="mlp_bias"),
    norms=(*norm("input_layernorm", bias=True), *norm("post_attention_layernorm", bias=True)),
    tensors=language_model("model.embed_tokens", norm("model.norm", bias=True)),
    # `NemotronLayerNorm1P`, `modeling_nemotron.py`, transformers 5.24
    computation=Computation(
        norm=NormKind.LAYER_FROM_ONE, epsilon="norm_eps", positions=Rotary(partial="partial_rotary_factor")
    ),
)
