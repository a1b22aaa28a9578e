"""The image encoder of SigLIP, whose pooling head has an MLP of the same width that stays as it is."""

from __future__ import annotations

from amp_export.architectures._blocks import Count
from amp_export.architectures._facts import Architecture, Kind, Modality
from amp_export.architectures._layouts import norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="siglip_vision_model",
    class_name="SiglipVisionModel",
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "vision_use_head": True,
    },
    attention=separate_attention(bias=True, output="out_proj", attributes={"num_heads": Count.QUERY_HEADS}),
    mlp=plain_mlp("mlp.fc1", "mlp.fc2", bias=True),
    norms=(*norm("layer_norm1", bias=True), *norm("layer_norm2", bias=True)),
    kind=Kind.ENCODER,
    modality=Modality.IMAGE,
    names={"num_key_value_heads": None, "head_dim": None},
    says_head_dim_when=None,
    # `SiglipMultiheadAttentionPoolingHead`, `modeling_siglip.py`, transformers 5.24
    says_neurons_when={"vision_use_head": False},
    # files of a whole SigLIP
    harmless=("logit_bias", "logit_scale", "text_model"),
    base_model="vision_model",
    layers="vision_model.encoder.layers",
)
