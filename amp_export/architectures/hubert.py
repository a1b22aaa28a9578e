"""HuBERT: an encoder of raw audio like Wav2Vec 2.0."""

from __future__ import annotations

from amp_export.architectures import _speech as speech
from amp_export.architectures._facts import Architecture, Kind, Modality

ARCHITECTURE = Architecture(
    model_type="hubert",
    class_name="HubertForCTC",
    # `HubertPositionalConvEmbedding` and `HubertFeatureProjection`, `modeling_hubert.py`, transformers 5.24
    defaults={**speech.SPEECH_DEFAULTS, "conv_pos_batch_norm": False, "feat_proj_layer_norm": True},
    attention=speech.SPEECH_ATTENTION,
    mlp=speech.SPEECH_MLP,
    norms=speech.SPEECH_NORMS,
    kind=Kind.ENCODER,
    modality=Modality.AUDIO,
    convolutions=speech.SPEECH_CONVOLUTIONS,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=speech.SPEECH_IGNORED,
    # `HubertEncoderLayerStableLayerNorm` reads it, though the config class has no such field
    required={"adapter_attn_dim": None},
    says_head_dim_when=None,
    embeds_padding=False,
    harmless=speech.SPEECH_HARMLESS,
    base_model="hubert",
    layers="hubert.encoder.layers",
)
