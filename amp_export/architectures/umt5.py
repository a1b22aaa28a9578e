"""umT5: mT5 with position biases in each layer."""

from __future__ import annotations

from amp_export.architectures._derived import Derived
from amp_export.architectures._encoder_decoders import T5_IGNORED, T5_NAMES, t5_layers
from amp_export.architectures._facts import Architecture, Kind

_LAYERS = t5_layers(biases_in_each_layer=True)

ARCHITECTURE = Architecture(
    model_type="umt5",
    class_name="UMT5ForConditionalGeneration",
    # `configuration_umt5.py` and `modeling_umt5.py`, transformers 5.24
    defaults={
        "vocab_size": 250112,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 1024,
        "num_layers": 8,
        "num_decoder_layers": None,
        "num_heads": 6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "scale_decoder_outputs": True,
        "tie_word_embeddings": True,
    },
    attention=_LAYERS.attention,
    mlp=_LAYERS.mlp,
    norms=_LAYERS.norms,
    kind=Kind.ENCODER_DECODER,
    more_stacks=_LAYERS.more_stacks,
    names=T5_NAMES,
    derived=(Derived("num_decoder_layers", "num_layers"),),
    ignored=T5_IGNORED,
    embeds_padding=False,
    base_model="",
    layers="encoder.block",
)
