"""EuroBERT: Llama as an encoder."""

from __future__ import annotations

from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import LLAMA_NORMS, gated_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="eurobert",
    class_name="EuroBertForMaskedLM",
    # `configuration_eurobert.py` and `modeling_eurobert.py`, transformers 5.24
    defaults={
        "vocab_size": 128256,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_pooling": "late",
    },
    attention=separate_attention(bias="attention_bias"),
    mlp=gated_mlp(bias="mlp_bias"),
    norms=LLAMA_NORMS,
    kind=Kind.ENCODER,
    ignored=frozenset({"mask_token_id", "pretraining_tp"}),
    hidden_size_divisible_by_heads=True,
    harmless=("classifier", "dense", "lm_head"),
)
