"""T5Gemma: an encoder-decoder whose layers are those of Gemma 2, with cross-attention in the decoder."""

from __future__ import annotations

from amp_export.architectures._derived import Derived
from amp_export.architectures._encoder_decoders import T5GEMMA_IGNORED, T5GEMMA_PARTS, t5gemma_layers, t5gemma_names
from amp_export.architectures._facts import Architecture, Kind

_LAYERS = t5gemma_layers()

ARCHITECTURE = Architecture(
    model_type="t5gemma",
    class_name="T5GemmaForConditionalGeneration",
    defaults={**T5GEMMA_PARTS, "tie_word_embeddings": True},
    parts=("encoder", "decoder"),
    attention=_LAYERS.attention,
    mlp=_LAYERS.mlp,
    norms=_LAYERS.norms,
    kind=Kind.ENCODER_DECODER,
    more_stacks=_LAYERS.more_stacks,
    names=t5gemma_names("encoder"),
    # `_shift_right`, `modeling_t5gemma.py`, transformers 5.24
    derived=(Derived("decoder_start_token_id", "decoder.bos_token_id"),),
    ignored=T5GEMMA_IGNORED,
    hidden_size_divisible_by_heads=True,
    layers="model.encoder.layers",
)
