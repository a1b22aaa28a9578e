"""Whisper: an audio encoder and a text decoder."""

from __future__ import annotations

from amp_export.architectures._encoder_decoders import BART_NAMES, bart_layers
from amp_export.architectures._facts import Architecture, Kind, Modality

# `WhisperAttention`, `modeling_whisper.py`, transformers 5.24
_LAYERS = bart_layers(key_bias=False)

ARCHITECTURE = Architecture(
    model_type="whisper",
    class_name="WhisperForConditionalGeneration",
    defaults={
        "vocab_size": 51865,
        "num_mel_bins": 80,
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "decoder_layers": 4,
        "decoder_attention_heads": 6,
        "decoder_ffn_dim": 1536,
        "activation_function": "gelu",
        "scale_embedding": False,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "tie_word_embeddings": True,
        "decoder_start_token_id": 50257,
        "eos_token_id": 50256,
    },
    attention=_LAYERS.attention,
    mlp=_LAYERS.mlp,
    norms=_LAYERS.norms,
    kind=Kind.ENCODER_DECODER,
    modality=Modality.AUDIO,
    generation_task="ForSpeechSeq2Seq",
    more_stacks=_LAYERS.more_stacks,
    names={**BART_NAMES, "max_position_embeddings": "max_target_positions"},
    ignored=frozenset(
        {
            "apply_spec_augment",
            "begin_suppress_tokens",
            "classifier_proj_size",
            "decoder_layerdrop",
            "encoder_layerdrop",
            "forced_decoder_ids",
            "mask_feature_length",
            "mask_feature_min_masks",
            "mask_feature_prob",
            "mask_time_length",
            "mask_time_min_masks",
            "mask_time_prob",
            "max_length",
            "median_filter_width",
            "num_hidden_layers",
            "suppress_tokens",
            "use_weighted_layer_sum",
        }
    ),
    says_head_dim_when=None,
    # `_extract_token_timestamps`, `generation_whisper.py`, transformers 5.24
    head_indices={"alignment_heads": "encoder_attn"},
    layers="model.encoder.layers",
)
