"""ELECTRA: BERT with narrow embeddings, trained to tell replaced tokens."""

from __future__ import annotations

from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import BERT_DEFAULTS, bert_layer

_ATTENTION, _MLP, _NORMS = bert_layer()

ARCHITECTURE = Architecture(
    model_type="electra",
    class_name="ElectraForMaskedLM",
    # `configuration_electra.py` and `modeling_electra.py`, transformers 5.24
    defaults={
        **BERT_DEFAULTS,
        "vocab_size": 30522,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
    },
    attention=_ATTENTION,
    mlp=_MLP,
    norms=_NORMS,
    kind=Kind.ENCODER,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=frozenset({"position_embedding_type", "summary_last_dropout"}),
    # used as a decoder, it would have a KV cache and possibly cross-attention; transformers 5 has no relative positions
    required={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
    says_head_dim_when=None,
    harmless=("classifier", "discriminator_predictions", "generator_lm_head", "generator_predictions", "qa_outputs"),
    base_model="electra",
    layers="electra.encoder.layer",
)
