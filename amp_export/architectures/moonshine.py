"""Moonshine: an encoder of raw audio and a text decoder with rotary embeddings, whose gates follow their ups."""

from __future__ import annotations

from amp_export.architectures._blocks import Block, Count, Projection, PrunedUnit
from amp_export.architectures._facts import Architecture, Kind, Modality, Stack
from amp_export.architectures._layouts import GROUP_ATTRIBUTE, norm, plain_mlp, separate_attention
from amp_export.architectures._waveforms import Convolutions, Padding

# `MoonshineAttention`, `modeling_moonshine.py`, transformers 5.24: it splits queries by the number of key/value heads
_ATTRIBUTES = {"config.num_key_value_heads": Count.KEY_VALUE_HEADS, **GROUP_ATTRIBUTE}


def _attention(module: str) -> Block:
    return separate_attention(module=module, bias="attention_bias", output_bias=False, attributes=_ATTRIBUTES)


_GATED = Block(
    module="mlp",
    inputs=(Projection("mlp.fc1", rows=(PrunedUnit.NEURONS, PrunedUnit.NEURONS), bias=True),),
    output=Projection("mlp.fc2", columns=PrunedUnit.NEURONS, bias=True),
)

_DECODER_NAMES = {
    "num_hidden_layers": "decoder_num_hidden_layers",
    "num_attention_heads": "decoder_num_attention_heads",
}

ARCHITECTURE = Architecture(
    model_type="moonshine",
    class_name="MoonshineForConditionalGeneration",
    # `configuration_moonshine.py`, transformers 5.24
    defaults={
        "vocab_size": 32768,
        "hidden_size": 288,
        "intermediate_size": 1152,
        "encoder_num_hidden_layers": 6,
        "decoder_num_hidden_layers": 6,
        "encoder_num_attention_heads": 8,
        "decoder_num_attention_heads": 8,
        "encoder_num_key_value_heads": None,
        "decoder_num_key_value_heads": None,
        "head_dim": None,
        "pad_head_dim_to_multiple_of": None,
        "encoder_hidden_act": "gelu",
        "decoder_hidden_act": "silu",
        "max_position_embeddings": 512,
        "rope_parameters": None,
        "partial_rotary_factor": 0.9,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "decoder_start_token_id": 1,
        "eos_token_id": 2,
    },
    attention=_attention("self_attn"),
    mlp=plain_mlp("mlp.fc1", "mlp.fc2", bias=True),
    norms=(*norm("input_layernorm"), *norm("post_attention_layernorm")),
    kind=Kind.ENCODER_DECODER,
    modality=Modality.AUDIO,
    # `MoonshineEncoder`, `modeling_moonshine.py`, transformers 5.24
    convolutions=Convolutions(kernels=(127, 7, 3), strides=(64, 3, 2), padding=Padding.BY_FIRST_SAMPLE),
    generation_task="ForSpeechSeq2Seq",
    more_stacks=(
        Stack(
            layers="model.decoder.layers",
            attention=_attention("self_attn"),
            mlp=_GATED,
            norms=(*norm("input_layernorm"), *norm("final_layernorm")),
            names=_DECODER_NAMES,
            is_decoder=True,
        ),
        Stack(
            layers="model.decoder.layers",
            attention=_attention("encoder_attn"),
            mlp=None,
            norms=norm("post_attention_layernorm"),
            names=_DECODER_NAMES,
            is_decoder=True,
        ),
    ),
    names={
        "num_hidden_layers": "encoder_num_hidden_layers",
        "num_attention_heads": "encoder_num_attention_heads",
        "num_key_value_heads": None,
    },
    # each query head has a key/value head of its own, whose number files repeat
    aliases={f"{part}_num_key_value_heads": "num_attention_heads" for part in ("encoder", "decoder")},
    layers="model.encoder.layers",
)
