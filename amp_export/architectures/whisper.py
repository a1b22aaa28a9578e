"""Whisper: an audio encoder and a text decoder."""

from __future__ import annotations

from amp_export.architectures._facts import Architecture, Block, Count, Kind, Modality, Projection, PrunedUnit, Stack
from amp_export.architectures._layouts import norm, plain_mlp


def _attention(module: str) -> Block:
    """Return `WhisperAttention`, `modeling_whisper.py`, transformers 5.24: the keys have no bias."""
    return Block(
        module=module,
        inputs=(
            Projection(f"{module}.q_proj", rows=PrunedUnit.QUERY_HEADS, bias=True),
            Projection(f"{module}.k_proj", rows=PrunedUnit.KEY_VALUE_HEADS),
            Projection(f"{module}.v_proj", rows=PrunedUnit.KEY_VALUE_HEADS, bias=True),
        ),
        output=Projection(f"{module}.out_proj", columns=PrunedUnit.QUERY_HEADS, bias=True),
        attributes={"num_heads": Count.QUERY_HEADS},
    )


_MLP = plain_mlp("fc1", "fc2", bias=True)
_NORMS = (*norm("self_attn_layer_norm", bias=True), *norm("final_layer_norm", bias=True))
_DECODER = {"num_hidden_layers": "decoder_layers", "num_attention_heads": "decoder_attention_heads"}

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
    attention=_attention("self_attn"),
    mlp=_MLP,
    norms=_NORMS,
    kind=Kind.ENCODER_DECODER,
    modality=Modality.AUDIO,
    generation_task="ForSpeechSeq2Seq",
    more_stacks=(
        Stack(
            layers="model.decoder.layers",
            attention=_attention("self_attn"),
            mlp=_MLP,
            norms=_NORMS,
            names={**_DECODER, "intermediate_size": "decoder_ffn_dim"},
            is_decoder=True,
        ),
        Stack(
            layers="model.decoder.layers",
            attention=_attention("encoder_attn"),
            mlp=None,
            norms=norm("encoder_attn_layer_norm", bias=True),
            names=_DECODER,
            is_decoder=True,
        ),
    ),
    names={
        "hidden_size": "d_model",
        "intermediate_size": "encoder_ffn_dim",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "num_key_value_heads": None,
        "head_dim": None,
        "max_position_embeddings": "max_target_positions",
    },
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
