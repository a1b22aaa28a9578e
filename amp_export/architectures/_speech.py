"""Layouts and fields that encoders of raw audio share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amp_export.architectures._layouts import norm, plain_mlp, separate_attention
from amp_export.architectures._waveforms import Convolutions

# `Wav2Vec2EncoderLayer` and `Wav2Vec2EncoderLayerStableLayerNorm`, `modeling_wav2vec2.py`, transformers 5.24
SPEECH_ATTENTION = separate_attention(module="attention", bias=True, output="out_proj", attributes={})
SPEECH_MLP = plain_mlp("feed_forward.intermediate_dense", "feed_forward.output_dense", bias=True)
SPEECH_NORMS = (*norm("layer_norm", bias=True), *norm("final_layer_norm", bias=True))

# models with group normalization were trained without masks: `Wav2Vec2FeatureExtractor`, transformers 5.24
SPEECH_CONVOLUTIONS = Convolutions("conv_kernel", "conv_stride", masked_when={"feat_extract_norm": "layer"})

SPEECH_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "conv_dim": (512, 512, 512, 512, 512, 512, 512),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "use_weighted_layer_sum": False,
    "classifier_proj_size": 256,
}

SPEECH_IGNORED = frozenset(
    {
        *("apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks"),
        *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks", "feat_proj_dropout", "final_dropout"),
        *("ctc_loss_reduction", "ctc_zero_infinity", "num_feat_extract_layers"),
    }
)

SPEECH_HARMLESS = ("classifier", "layer_weights", "lm_head", "masked_spec_embed", "projector")
