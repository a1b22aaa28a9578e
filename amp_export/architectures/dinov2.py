"""DINOv2: an image encoder whose MLPs are as wide as the hidden size says."""

from __future__ import annotations

from amp_export.architectures._derived import Derived
from amp_export.architectures._facts import Architecture, Kind, Modality
from amp_export.architectures._layouts import norm, plain_mlp, separate_attention

ARCHITECTURE = Architecture(
    model_type="dinov2",
    class_name="Dinov2ForImageClassification",
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "head_dim": None,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": 224,
        "patch_size": 14,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "use_mask_token": True,
        "apply_layernorm": True,
        "reshape_hidden_states": True,
    },
    # `Dinov2Attention` and `Dinov2MLP`, `modeling_dinov2.py`, transformers 5.24
    attention=separate_attention(module="attention", bias="qkv_bias", output_bias=True, attributes={}),
    mlp=plain_mlp("mlp.fc1", "mlp.fc2", bias=True),
    norms=(*norm("norm1", bias=True), *norm("norm2", bias=True)),
    kind=Kind.ENCODER,
    modality=Modality.IMAGE,
    names={"num_key_value_heads": None},
    derived=(Derived("intermediate_size", ("hidden_size", 4), {}),),
    ignored=frozenset(
        {"_out_features", "_out_indices", "drop_path_rate", "out_features", "out_indices", "stage_names"}
    ),
    # the width of the gated MLP of the largest DINOv2 is no multiple of the hidden size
    required={"mlp_ratio": 4, "use_swiglu_ffn": False},
    says_neurons_when=None,
    harmless=("classifier", "mask_token"),
    base_model="dinov2",
    layers="dinov2.encoder.layer",
)
