"""T5: an encoder-decoder whose first layers hold the position biases of all layers."""

from __future__ import annotations

from amp_export.architectures._derived import Derived
from amp_export.architectures._encoder_decoders import T5_IGNORED, T5_NAMES, t5_layers
from amp_export.architectures._facts import Architecture, Kind

_LAYERS = t5_layers()

ARCHITECTURE = Architecture(
    model_type="t5",
    class_name="T5ForConditionalGeneration",
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
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
    heads_tied=True,
    embeds_padding=False,
    base_model="",
    layers="encoder.block",
)
