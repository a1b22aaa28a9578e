"""Nomic BERT: BERT with rotary embeddings and a gated MLP."""

from __future__ import annotations

from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import gated_mlp, norm, separate_attention

ARCHITECTURE = Architecture(
    model_type="nomic_bert",
    class_name="NomicBertForMaskedLM",
    # `configuration_nomic_bert.py` and `modeling_nomic_bert.py`, transformers 5.24
    defaults={
        "vocab_size": 30528,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
        "rope_parameters": None,
    },
    attention=separate_attention(bias=False, attributes={}),
    mlp=gated_mlp(),
    norms=(*norm("post_attention_layernorm", bias=True), *norm("post_mlp_layernorm", bias=True)),
    kind=Kind.ENCODER,
    names={"num_key_value_heads": None},
    harmless=("classifier", "cls", "pooler"),
    base_model="nomic_bert",
    layers="nomic_bert.layers",
)
