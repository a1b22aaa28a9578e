"""ALBERT: BERT with narrow embeddings, whose layers share their weights group by group."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection, PrunedUnit
from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import norm

_LAYER = "albert_layers.0"

ARCHITECTURE = Architecture(
    model_type="albert",
    class_name="AlbertForMaskedLM",
    defaults={
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_layers": 12,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    # `AlbertLayer` and `AlbertTransformer.forward`, `modeling_albert.py`, transformers 5.24
    attention=Block(
        module=f"{_LAYER}.attention",
        inputs=(
            Projection(f"{_LAYER}.attention.query", rows=PrunedUnit.QUERY_HEADS, bias=True),
            Projection(f"{_LAYER}.attention.key", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
            Projection(f"{_LAYER}.attention.value", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
        ),
        output=Projection(f"{_LAYER}.attention.dense", columns=PrunedUnit.QUERY_HEADS, bias=True),
    ),
    mlp=Block(
        module=_LAYER,
        inputs=(Projection(f"{_LAYER}.ffn", rows=PrunedUnit.NEURONS, bias=True),),
        output=Projection(f"{_LAYER}.ffn_output", columns=PrunedUnit.NEURONS, bias=True),
    ),
    norms=(*norm(f"{_LAYER}.attention.LayerNorm", bias=True), *norm(f"{_LAYER}.full_layer_layer_norm", bias=True)),
    kind=Kind.ENCODER,
    # a layer is a group of those that share their weights
    names={"num_hidden_layers": "num_hidden_groups", "num_key_value_heads": None, "head_dim": None},
    ignored=frozenset({"classifier_dropout_prob"}),
    required={"inner_group_num": 1},
    says_head_dim_when=None,
    layers_follow_when=None,
    harmless=("classifier", "pooler", "predictions", "qa_outputs", "sop_classifier"),
    base_model="albert",
    layers="albert.encoder.albert_layer_groups",
)
