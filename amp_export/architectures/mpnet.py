"""MPNet: BERT with position biases that all layers share."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection, PrunedUnit
from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import bert_layer, norm

_MLP = bert_layer()[1]

ARCHITECTURE = Architecture(
    model_type="mpnet",
    class_name="MPNetForMaskedLM",
    defaults={
        "vocab_size": 30527,
        "pad_token_id": 1,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "relative_attention_num_buckets": 32,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    # `MPNetAttention`, `MPNetSelfAttention` and `MPNetEncoder`, `modeling_mpnet.py`, transformers 5.24
    attention=Block(
        module="attention.attn",
        inputs=(
            Projection("attention.attn.q", rows=PrunedUnit.QUERY_HEADS, bias=True),
            Projection("attention.attn.k", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
            Projection("attention.attn.v", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
        ),
        output=Projection("attention.attn.o", columns=PrunedUnit.QUERY_HEADS, bias=True),
    ),
    mlp=_MLP,
    norms=(*norm("attention.LayerNorm", bias=True), *norm("output.LayerNorm", bias=True)),
    kind=Kind.ENCODER,
    names={"num_key_value_heads": None, "head_dim": None},
    heads_stay="all layers share the position biases of their heads",
    says_head_dim_when=None,
    positions_after_padding=True,
    harmless=("classifier", "lm_head", "pooler", "qa_outputs"),
    base_model="mpnet",
    layers="mpnet.encoder.layer",
)
