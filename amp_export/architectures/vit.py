"""ViT: an image encoder over patches."""

from __future__ import annotations

from amp_export.architectures._blocks import Count
from amp_export.architectures._facts import Architecture, Kind, Modality
from amp_export.architectures._layouts import norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="vit",
    class_name="ViTForImageClassification",
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
        "pooler_output_size": None,
        "pooler_act": "tanh",
    },
    attention=separate_attention(
        module="attention",
        bias="qkv_bias",
        output_bias=True,
        attributes={"num_attention_heads": Count.QUERY_HEADS},
    ),
    mlp=plain_mlp("mlp.fc1", "mlp.fc2", bias=True),
    norms=(*norm("layernorm_before", bias=True), *norm("layernorm_after", bias=True)),
    kind=Kind.ENCODER,
    modality=Modality.IMAGE,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=frozenset({"encoder_stride"}),
    says_head_dim_when=None,
    harmless=("classifier", "decoder", "mask_token", "pooler"),
    base_model="vit",
    layers="vit.layers",
)
