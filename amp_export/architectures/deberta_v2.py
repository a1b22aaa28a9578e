"""DeBERTa v2 and v3: BERT whose scores also depend on relative positions."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Count, Projection, PrunedUnit, Tensor
from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import ALL_KEY_HEADS, ALL_QUERY_HEADS, bert_layer

_, _MLP, _NORMS = bert_layer()
_OWN = {"relative_attention": True, "share_att_key": (None, False)}
_BOTH = ("c2p|p2c", "p2c|c2p", ["c2p", "p2c"], ["p2c", "c2p"])
_KEYS = {**_OWN, "pos_att_type": ("c2p", ["c2p"], *_BOTH)}
_QUERIES = {**_OWN, "pos_att_type": ("p2c", ["p2c"], *_BOTH)}

ARCHITECTURE = Architecture(
    model_type="deberta-v2",
    class_name="DebertaV2ForMaskedLM",
    defaults={
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": False,
        "max_relative_positions": -1,
        "position_biased_input": True,
        "pos_att_type": None,
        "legacy": True,
        "pooler_hidden_act": "gelu",
        "tie_word_embeddings": True,
    },
    # `DisentangledSelfAttention`, `modeling_deberta_v2.py`, transformers 5.24
    attention=Block(
        module="attention.self",
        inputs=(
            Projection("attention.self.query_proj", rows=PrunedUnit.QUERY_HEADS, bias=True),
            Projection("attention.self.key_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
            Projection("attention.self.value_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
        ),
        output=Projection("attention.output.dense", columns=PrunedUnit.QUERY_HEADS, bias=True),
        # of embeddings of distances instead of tokens
        tensors=(
            Tensor("attention.self.pos_key_proj.weight", (ALL_KEY_HEADS, "hidden_size"), _KEYS),
            Tensor("attention.self.pos_key_proj.bias", (ALL_KEY_HEADS,), _KEYS),
            Tensor("attention.self.pos_query_proj.weight", (ALL_QUERY_HEADS, "hidden_size"), _QUERIES),
            Tensor("attention.self.pos_query_proj.bias", (ALL_QUERY_HEADS,), _QUERIES),
        ),
        attributes={"num_attention_heads": Count.QUERY_HEADS},
    ),
    mlp=_MLP,
    norms=_NORMS,
    kind=Kind.ENCODER,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=frozenset({"pooler_dropout", "pooler_hidden_size"}),
    says_head_dim_when=None,
    # `DebertaV2Encoder.forward`: a convolution follows the first layer
    layers_follow_when={"conv_kernel_size": (None, 0)},
    harmless=("classifier", "cls", "lm_predictions", "mask_predictions", "pooler", "qa_outputs"),
    base_model="deberta",
    layers="deberta.encoder.layer",
)
