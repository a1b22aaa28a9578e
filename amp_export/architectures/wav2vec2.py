"""Wav2Vec 2.0: an encoder of raw audio, whose convolutions stay as they are."""

from __future__ import annotations

from amp_export.architectures import _speech as speech
from amp_export.architectures._facts import Architecture, Kind, Modality

ARCHITECTURE = Architecture(
    model_type="wav2vec2",
    class_name="Wav2Vec2ForCTC",
    defaults={**speech.SPEECH_DEFAULTS, "add_adapter": False, "adapter_attn_dim": None},
    attention=speech.SPEECH_ATTENTION,
    mlp=speech.SPEECH_MLP,
    norms=speech.SPEECH_NORMS,
    kind=Kind.ENCODER,
    modality=Modality.AUDIO,
    convolutions=speech.SPEECH_CONVOLUTIONS,
    names={"num_key_value_heads": None, "head_dim": None},
    ignored=speech.SPEECH_IGNORED
    | {
        # of the adapter, which is refused
        *("adapter_kernel_size", "adapter_stride", "num_adapter_layers", "output_hidden_size"),
        # of the classes for pretraining and for x-vectors, which are refused
        *("codevector_dim", "contrastive_logits_temperature", "diversity_loss_weight", "feat_quantizer_dropout"),
        *("num_codevector_groups", "num_codevectors_per_group", "num_negatives", "proj_codevector_dim"),
        *("tdnn_dilation", "tdnn_dim", "tdnn_kernel", "xvector_output_dim"),
    },
    # a checkpoint with adapters in its layers loads one of several, each from a file of its own: `load_adapter`
    required={"add_adapter": False, "adapter_attn_dim": None},
    says_head_dim_when=None,
    embeds_padding=False,
    harmless=(*speech.SPEECH_HARMLESS, "project_hid", "project_q", "quantizer"),
    base_model="wav2vec2",
    layers="wav2vec2.encoder.layers",
)
