"""ModernBERT: fused queries, keys and values, a fused gated MLP, alternating local and global attention."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Projection, PrunedUnit, Tensor
from amp_export.architectures._facts import Architecture, Kind
from amp_export.architectures._layouts import norm

ARCHITECTURE = Architecture(
    model_type="modernbert",
    class_name="ModernBertForMaskedLM",
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "layer_types": None,
        "rope_parameters": None,
        "local_attention": 128,
        "decoder_bias": True,
        "classifier_pooling": "cls",
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "sparse_prediction": False,
        "tie_word_embeddings": True,
    },
    attention=Block(
        module="attn",
        inputs=(
            Projection(
                "attn.Wqkv",
                rows=(PrunedUnit.QUERY_HEADS, PrunedUnit.KEY_VALUE_HEADS, PrunedUnit.KEY_VALUE_HEADS),
                bias="attention_bias",
            ),
        ),
        output=Projection("attn.Wo", columns=PrunedUnit.QUERY_HEADS, bias="attention_bias"),
    ),
    mlp=Block(
        module="mlp",
        inputs=(Projection("mlp.Wi", rows=(PrunedUnit.NEURONS, PrunedUnit.NEURONS), bias="mlp_bias"),),
        output=Projection("mlp.Wo", columns=PrunedUnit.NEURONS, bias="mlp_bias"),
    ),
    norms=(*norm("mlp_norm"), Tensor("mlp_norm.bias", ("hidden_size",), {"norm_bias": True})),
    kind=Kind.ENCODER,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=frozenset(
        {
            "deterministic_flash_attn",
            "global_attn_every_n_layers",
            "global_rope_theta",
            "gradient_checkpointing",
            "initializer_cutoff_factor",
            "layer_norm_eps",
            "local_rope_theta",
            "position_embedding_type",
            "reference_compile",
            "repad_logits_with_grad",
            "sparse_pred_ignore_index",
        }
    ),
    required={"position_embedding_type": "absolute"},
    says_head_dim_when=None,
    harmless=("classifier", "decoder", "head", "qa_outputs"),
)
