"""Marian: translation models with sinusoidal positions."""

from __future__ import annotations

from amp_export.architectures._encoder_decoders import BART_DEFAULTS, BART_IGNORED, BART_NAMES, bart_layers
from amp_export.architectures._facts import Architecture, Kind

_LAYERS = bart_layers()

ARCHITECTURE = Architecture(
    model_type="marian",
    class_name="MarianMTModel",
    # `configuration_marian.py` and `modeling_marian.py`, transformers 5.24
    defaults={
        **BART_DEFAULTS,
        "vocab_size": 58101,
        "decoder_vocab_size": None,
        "share_encoder_decoder_embeddings": True,
        "decoder_start_token_id": 58100,
        "eos_token_id": 0,
    },
    attention=_LAYERS.attention,
    mlp=_LAYERS.mlp,
    norms=_LAYERS.norms,
    kind=Kind.ENCODER_DECODER,
    more_stacks=_LAYERS.more_stacks,
    names=BART_NAMES,
    ignored=BART_IGNORED,
    named_as_bare=True,
    says_head_dim_when=None,
    layers="model.encoder.layers",
)
