"""Traces an encoder-decoder as three graphs, named as in Optimum.

The decoder's first call computes the cross-attention keys and values; later calls take them as inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from amp_export.checkpoints.loading import cache_argument, takes
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.files import DECODER, DECODER_WITH_PAST, ENCODER
from amp_export.exporters.models.encoder_decoder import MASK
from amp_export.exporters.tracing.decoders import NEW, PAST, check_layers, contents, filled_cache, sample_past
from amp_export.exporters.tracing.encoders import encoder_inputs, sample_waveforms
from amp_export.exporters.tracing.jobs import BATCH, Axes, Job, Sample, sample_tokens

if TYPE_CHECKING:
    from transformers import EncoderDecoderCache, PreTrainedModel

_PARTS = ("decoder", "encoder")
"""Parts of the KV cache, in the order of `EncoderDecoderCache`'s arguments."""


_SOURCE: Axes = ("batch_size", "encoder_sequence_length")


class Encoder(torch.nn.Module):
    """Computes the encoder's hidden states from text or audio, and of padded raw audio which of them are real."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the states."""
        encoder = self.model.get_encoder()
        with counting_in_integers(encoder):
            encoded = encoder(**inputs, return_dict=True)
        # raw audio has fewer states than samples, so that the mask of the samples says nothing to a decoder
        mask = getattr(encoded, "attention_mask", None)
        real = {} if mask is None else {MASK: mask.long()}
        return {"last_hidden_state": encoded.last_hidden_state, **real}


@contextmanager
def counting_in_integers(encoder: torch.nn.Module) -> Iterator[None]:
    """Let an encoder of raw audio count its frames in integers.

    `_get_feat_extract_output_lengths` of `modeling_moonshine.py`, transformers 5.24, rounds a quotient of
    floating-point numbers with `int`, which tracing would take as the number of frames of the sample.
    """
    name = "_get_feat_extract_output_lengths"
    convolutions = [module for module in encoder.children() if isinstance(module, torch.nn.Conv1d)]
    if not hasattr(encoder, name) or not convolutions:
        yield
        return

    def frames(samples: int) -> int:
        for each in convolutions:
            samples = (samples - each.kernel_size[0]) // each.stride[0] + 1
        return samples

    setattr(encoder, name, frames)
    try:
        yield
    finally:
        delattr(encoder, name)


class FirstStep(torch.nn.Module):
    """Computes logits and both KV caches from new tokens and the encoder's hidden states."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Compute one step."""
        from transformers import DynamicCache, EncoderDecoderCache

        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        logits = decode(self.model, input_ids, encoder_hidden_states, encoder_attention_mask, cache)
        return {"logits": logits, "present": both_contents(cache)}


class LaterStep(torch.nn.Module):
    """Computes logits and the decoder's next KV cache from new tokens and both KV caches."""

    def __init__(self, model: PreTrainedModel, width: int) -> None:
        super().__init__()
        self.model = model
        self.width = width

    def forward(
        self,
        input_ids: torch.Tensor,
        past_key_values: Sequence[Mapping[str, Mapping[str, torch.Tensor]]],
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Compute one step."""
        from transformers import EncoderDecoderCache

        caches = [filled_cache([layer[part] for layer in past_key_values]) for part in _PARTS]
        keys = past_key_values[0]["encoder"]["key"]
        # models read the shape of the encoder's states even if their keys and values are cached
        states = keys.new_zeros((keys.shape[0], keys.shape[2], self.width))
        cache = EncoderDecoderCache(*caches)
        logits = decode(self.model, input_ids, states, encoder_attention_mask, cache)
        return {"logits": logits, "present": [{"decoder": layer["decoder"]} for layer in both_contents(cache)]}


def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor | None,
    cache: EncoderDecoderCache,
) -> torch.Tensor:
    """Call the model with the encoder's output; this fills the cache."""
    from transformers.modeling_outputs import BaseModelOutput

    cache_name = cache_argument(model)
    assert cache_name is not None
    encoded = BaseModelOutput(last_hidden_state=encoder_hidden_states)
    # Moonshine's decoder takes the mask from there: `MoonshineModel`, `modeling_moonshine.py`, transformers 5.24
    encoded.attention_mask = encoder_attention_mask
    arguments = {
        "encoder_outputs": encoded,
        "decoder_input_ids": input_ids,
        cache_name: cache,
        "use_cache": True,
        "return_dict": True,
    }
    if encoder_attention_mask is not None:
        arguments["attention_mask"] = encoder_attention_mask
    logits: torch.Tensor = model(**arguments).logits
    return logits


def both_contents(cache: EncoderDecoderCache) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Return the keys and values of each layer, of self-attention and cross-attention."""
    own, cross = contents(cache.self_attention_cache), contents(cache.cross_attention_cache)
    return [dict(zip(_PARTS, layer, strict=True)) for layer in zip(own, cross, strict=True)]


def seq2seq_jobs(model: PreTrainedModel) -> list[Job]:
    """Return the three graphs of an encoder-decoder.

    - `encoder_model.onnx`: `input_ids` and `attention_mask`, or `input_features`, to `last_hidden_state`; or raw audio,
      `input_values`, and `attention_mask`, to `last_hidden_state` and `encoder_attention_mask`.
    - `decoder_model.onnx`: `input_ids`, `encoder_hidden_states` and `encoder_attention_mask` to `logits` and
      `present.N.decoder|encoder.key|value`. Models of `input_features` have no mask.
    - `decoder_with_past_model.onnx`: `input_ids`, `past_key_values.N.decoder|encoder.key|value` and
      `encoder_attention_mask` to `logits` and `present.N.decoder.key|value`; the encoder's do not change.

    Raises:
        UnsupportedModelError: The model takes neither text nor audio, or caches something other than keys and values.
    """
    inputs = _source_inputs(model)
    encoder = Encoder(model)
    with torch.no_grad():
        encoded = encoder(**{name: sample.tensor for name, sample in inputs.items()})
    states, mask = encoded["last_hidden_state"], {}
    if MASK in encoded:
        mask[MASK] = Sample(encoded[MASK], _SOURCE)
    elif "attention_mask" in inputs:
        mask[MASK] = Sample(inputs["attention_mask"].tensor, _SOURCE)
    tokens = {"input_ids": Sample(sample_tokens(model, NEW), ("batch_size", "decoder_sequence_length"))}
    hidden = {"encoder_hidden_states": Sample(states, (*_SOURCE, None))}
    past = {"past_key_values": _sample_pasts(model, states)}
    return [
        Job(ENCODER, encoder, inputs, dict.fromkeys(encoded, ("batch_size",))),
        Job(DECODER, FirstStep(model), {**tokens, **hidden, **mask}, _outputs("decoder_sequence_length")),
        Job(
            DECODER_WITH_PAST,
            LaterStep(model, states.shape[-1]),
            {**tokens, **past, **mask},
            _outputs("total_decoder_sequence_length"),
        ),
    ]


def _outputs(length: str) -> dict[str, Axes]:
    lengths = {"decoder": length, "encoder": "encoder_sequence_length"}
    states: dict[str, Axes] = {
        f"present.N.{part}.{kind}": ("batch_size", None, lengths[part], None)
        for part in _PARTS
        for kind in ("key", "value")
    }
    return {"logits": ("batch_size", "decoder_sequence_length", None), **states}


def _source_inputs(model: PreTrainedModel) -> dict[str, Sample]:
    if model.main_input_name == "input_features":
        return {"input_features": Sample(_sample_sound(model), ("batch_size", None, None))}
    if model.main_input_name == "input_values":
        axes = ("batch_size", "sequence_length")
        return {name: Sample(tensor, axes) for name, tensor in sample_waveforms(model, masked=True).items()}
    if model.main_input_name != "input_ids" or takes(model, "pixel_values"):
        raise UnsupportedModelError(
            f"{type(model).__name__} takes {model.main_input_name}.\n"
            "Only encoder-decoders that read text, or audio like Whisper and Moonshine, are supported."
        )
    samples = encoder_inputs(model)
    return {name: Sample(samples[name].tensor, _SOURCE) for name in ("input_ids", "attention_mask")}


def _sample_sound(model: PreTrainedModel) -> torch.Tensor:
    """Return features of the fixed length that Whisper takes: two frames per encoder position."""
    length = 2 * model.get_encoder().embed_positions.weight.shape[0]
    bins = model.get_encoder().conv1.in_channels
    return torch.linspace(-1, 1, BATCH * bins * length, dtype=model.dtype, device=model.device).reshape(
        BATCH, bins, length
    )


def _sample_pasts(model: PreTrainedModel, states: torch.Tensor) -> list[dict[str, dict[str, Sample]]]:
    """Return a sample KV cache for each layer, with the shapes of the layer's keys and values."""
    from transformers import DynamicCache, EncoderDecoderCache

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad():
        decode(model, sample_tokens(model, NEW), states, None, cache)
    check_layers(model, [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers])
    lengths = {
        "decoder": (PAST, "past_decoder_sequence_length"),
        "encoder": (states.shape[1], "encoder_sequence_length"),
    }
    return [
        {part: {kind: sample_past(tensor, *lengths[part]) for kind, tensor in layer[part].items()} for part in _PARTS}
        for layer in both_contents(cache)
    ]
