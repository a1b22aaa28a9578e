"""DistilBERT: BERT with half the layers and different names."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection, PrunedUnit
from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import norm, plain_mlp

ARCHITECTURE = Architecture(
    model_type="distilbert",
    class_name="DistilBertForMaskedLM",
    defaults={
        "vocab_size": 30522,
        "dim": 768,
        "hidden_dim": 3072,
        "n_layers": 6,
        "n_heads": 12,
        "activation": "gelu",
        "max_position_embeddings": 512,
        "sinusoidal_pos_embds": False,
        "tie_word_embeddings": True,
    },
    attention=Block(
        module="attention",
        inputs=(
            Projection("attention.q_lin", rows=PrunedUnit.QUERY_HEADS, bias=True),
            Projection("attention.k_lin", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
            Projection("attention.v_lin", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
        ),
        output=Projection("attention.out_lin", columns=PrunedUnit.QUERY_HEADS, bias=True),
    ),
    mlp=plain_mlp("ffn.lin1", "ffn.lin2", bias=True),
    norms=(*norm("sa_layer_norm", bias=True), *norm("output_layer_norm", bias=True)),
    kind=Kind.ENCODER,
    names={
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": None,
        "head_dim": None,
    },
    ignored=frozenset({"qa_dropout", "seq_classif_dropout", "tie_weights_"}),
    says_head_dim_when=None,
    harmless=(
        *("classifier", "pre_classifier", "qa_outputs"),
        *("vocab_layer_norm", "vocab_projector", "vocab_transform"),
    ),
    base_model="distilbert",
    layers="distilbert.transformer.layer",
)
