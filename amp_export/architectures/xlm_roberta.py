"""XLM-RoBERTa: RoBERTa for many languages."""

from __future__ import annotations

from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import BERT_DEFAULTS, bert_layer

_ATTENTION, _MLP, _NORMS = bert_layer()

ARCHITECTURE = Architecture(
    model_type="xlm-roberta",
    class_name="XLMRobertaForMaskedLM",
    # `configuration_xlm_roberta.py` and `modeling_xlm_roberta.py`, transformers 5.24
    defaults={"vocab_size": 30522, "pad_token_id": 1, **BERT_DEFAULTS},
    attention=_ATTENTION,
    mlp=_MLP,
    norms=_NORMS,
    kind=Kind.ENCODER,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=frozenset({"gradient_checkpointing", "output_past", "position_embedding_type"}),
    # used as a decoder, it would have a KV cache and possibly cross-attention; transformers 5 has no relative positions
    required={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
    says_head_dim_when=None,
    positions_after_padding=True,
    harmless=("classifier", "lm_head", "pooler", "qa_outputs"),
    base_model="roberta",
    layers="roberta.encoder.layer",
)
