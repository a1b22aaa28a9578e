"""The image encoder of CLIP."""

from __future__ import annotations

from amp_export.architectures._blocks import Count
from amp_export.architectures._facts import Architecture, Kind, Modality
from amp_export.architectures._layouts import norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="clip_vision_model",
    class_name="CLIPVisionModel",
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "image_size": 224,
        "patch_size": 32,
        "num_channels": 3,
    },
    attention=separate_attention(bias=True, output="out_proj", attributes={"num_heads": Count.QUERY_HEADS}),
    mlp=plain_mlp("mlp.fc1", "mlp.fc2", bias=True),
    norms=(*norm("layer_norm1", bias=True), *norm("layer_norm2", bias=True)),
    kind=Kind.ENCODER,
    modality=Modality.IMAGE,
    names={"num_key_value_heads": None, "head_dim": None},
    says_head_dim_when=None,
    more_classes=("CLIPVisionModelWithProjection",),
    # files of a whole CLIP
    harmless=("logit_scale", "text_model", "text_projection", "visual_projection"),
    base_model="vision_model",
    layers="vision_model.encoder.layers",
)
