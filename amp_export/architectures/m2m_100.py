"""M2M-100 and NLLB: mBART with sinusoidal positions."""

from __future__ import annotations

from amp_export.architectures._encoder_decoders import BART_DEFAULTS, BART_IGNORED, BART_NAMES, bart_layers
from amp_export.architectures._facts import Architecture, Kind

_LAYERS = bart_layers()

ARCHITECTURE = Architecture(
    model_type="m2m_100",
    class_name="M2M100ForConditionalGeneration",
    # `configuration_m2m_100.py` and `modeling_m2m_100.py`, transformers 5.24
    defaults={
        **BART_DEFAULTS,
        "vocab_size": 128112,
        "activation_function": "relu",
        "scale_embedding": True,
        "decoder_start_token_id": 2,
        "eos_token_id": 2,
    },
    attention=_LAYERS.attention,
    mlp=_LAYERS.mlp,
    norms=_LAYERS.norms,
    kind=Kind.ENCODER_DECODER,
    more_stacks=_LAYERS.more_stacks,
    names=BART_NAMES,
    ignored=BART_IGNORED,
    says_head_dim_when=None,
    layers="model.encoder.layers",
)
