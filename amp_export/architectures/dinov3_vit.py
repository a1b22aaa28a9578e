"""DINOv3 ViT: an image encoder with rotary embeddings, registers, and in part gated MLPs."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Count, Projection, PrunedUnit
from amp_export.architectures._facts import Architecture, Kind, Modality
from amp_export.architectures._layouts import norm

ARCHITECTURE = Architecture(
    model_type="dinov3_vit",
    class_name="DINOv3ViTModel",
    defaults={
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "layerscale_value": 1.0,
        "use_gated_mlp": False,
        "num_register_tokens": 0,
        "apply_layernorm": True,
        "reshape_hidden_states": True,
    },
    # `DINOv3ViTAttention`, `DINOv3ViTMLP` and `DINOv3ViTGatedMLP`, `modeling_dinov3_vit.py`, transformers 5.24
    attention=Block(
        module="attention",
        inputs=(
            Projection("attention.q_proj", rows=PrunedUnit.QUERY_HEADS, bias="query_bias"),
            Projection("attention.k_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias="key_bias"),
            Projection("attention.v_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias="value_bias"),
        ),
        output=Projection("attention.o_proj", columns=PrunedUnit.QUERY_HEADS, bias="proj_bias"),
        attributes={"num_heads": Count.QUERY_HEADS},
    ),
    mlp=Block(
        module="mlp",
        inputs=(
            Projection("mlp.gate_proj", rows=PrunedUnit.NEURONS, bias="mlp_bias", when={"use_gated_mlp": True}),
            Projection("mlp.up_proj", rows=PrunedUnit.NEURONS, bias="mlp_bias"),
        ),
        output=Projection("mlp.down_proj", columns=PrunedUnit.NEURONS, bias="mlp_bias"),
    ),
    norms=(*norm("norm1", bias=True), *norm("norm2", bias=True)),
    kind=Kind.ENCODER,
    modality=Modality.IMAGE,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=frozenset(
        {
            *("_out_features", "_out_indices", "drop_path_rate", "out_features", "out_indices", "stage_names"),
            # augment positions in training
            *("pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift"),
        }
    ),
    says_head_dim_when=None,
    harmless=("mask_token",),
    base_model="",
    layers="model.layer",
)
