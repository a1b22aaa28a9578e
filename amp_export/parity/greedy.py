"""Greedy decoding: a graph, step by step, against transformers' `generate()`, which is what users run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.architectures import ModelConfig
from amp_export.exporters.models.generation import generate_greedily
from amp_export.inputs.random import as_tensors
from amp_export.inputs.tokens import Floats, Integers, draw_rows
from amp_export.parity.decoder_cases import Cache, Forward
from amp_export.parity.encoder_cases import Inputs
from amp_export.parity.switches import switches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.exporters.limits import Limits
    from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder

PROMPT_TOKENS, STEPS = 17, 64
"""Tokens of the prompt, and of the generated continuation, unless the text has to reach a switch of the model."""


@dataclass(frozen=True)
class Continuation:
    """A prompt and the tokens to generate after it.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        steps: Tokens to generate; 0 if there is no room.
    """

    prompt_tokens: int
    steps: int


def choose_continuation(config: ModelConfig, context: int) -> Continuation:
    """Return a continuation that crosses a model's first switch, or ends at the limit of its KV cache.

    Args:
        config: The model's config.
        context: The longest text in tokens.
    """
    limit = min(context, config.cache_limit or context)
    reached = [each for each in switches(config) if each.is_reached and each.tokens <= limit]
    # the middle of the steps is at the switch; where a cache ends, so does the text
    starts = [each.tokens - (STEPS // 2 if each.keeps_cache else STEPS) for each in reached]
    prompt = max(PROMPT_TOKENS, min(starts, default=0))
    return Continuation(prompt, max(0, min(STEPS, limit - prompt)))


def continue_greedily(pool: Integers, forward: Forward[Cache], continuation: Continuation) -> Integers:
    """Generate tokens with a graph, one at a time after the prompt.

    Args:
        pool: Token ids to draw the prompt from.
        forward: The decoder.
        continuation: The lengths.

    Returns:
        The generated tokens, int64 [steps].
    """
    prompt_bs = draw_rows(pool, 1, continuation.prompt_tokens)
    return np.array(list(islice(generate_greedily(forward, prompt_bs), continuation.steps)), np.int64)


def generate(model: PreTrainedModel, pool: Integers, continuation: Continuation) -> tuple[Integers, Floats]:
    """Generate tokens with transformers' `generate()`, greedily and with its own KV cache.

    Settings of the checkpoint, such as a penalty or the token that ends a text, are set aside: both sides generate the
    given number of most likely tokens.

    Returns:
        The generated tokens, int64 [steps], and the logits of each step, float64 [steps, vocabulary].
    """
    import torch

    tokens_bs = torch.from_numpy(draw_rows(pool, 1, continuation.prompt_tokens))
    given = {"input_ids": tokens_bs, "attention_mask": torch.ones_like(tokens_bs)}
    return _generate(model, given, continuation.steps)


def written_steps(config: ModelConfig, limits: Limits | None) -> int:
    """Return the number of tokens that an encoder-decoder generates from one source."""
    most = [config.longest_text, limits.max_context if limits is not None else None]
    return min([STEPS, *(each for each in most if each is not None)])


def write_greedily(graph: GraphEncoderDecoder, source: Inputs, start: int, steps: int) -> Integers:
    """Generate tokens with the graphs of an encoder-decoder, one at a time.

    Args:
        graph: The graphs.
        source: Inputs of the encoder, of one sample.
        start: The token to start with.
        steps: Tokens to generate.

    Returns:
        The generated tokens, int64 [steps].
    """
    encoded = graph.encode(source)
    written, past = [start], None
    for _ in range(steps):
        logits_bsv, past = graph.decode(np.array([written[-1:]], np.int64), encoded, past)
        written.append(int(logits_bsv[0, -1].argmax()))
    return np.array(written[1:], np.int64)


def generate_written(model: PreTrainedModel, source: Inputs, start: int, steps: int) -> tuple[Integers, Floats]:
    """Generate tokens with transformers' `generate()` from a source, as `generate` does after a prompt.

    Returns:
        The generated tokens, int64 [steps], and the logits of each step, float64 [steps, vocabulary].
    """
    return _generate(model, as_tensors(source, model), steps, decoder_start_token_id=start)


def _generate(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], steps: int, **settings: int
) -> tuple[Integers, Floats]:
    import torch
    from transformers import GenerationConfig, GenerationMixin

    from amp_export.checkpoints.quiet import quiet_transformers

    untyped: Any = GenerationMixin
    own = model.generation_config
    model.generation_config = GenerationConfig(**settings)
    try:
        with quiet_transformers():
            # Whisper's own method cuts long audio into pieces, and then calls this one
            result = untyped.generate(
                model,
                **inputs,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=steps,
                return_dict_in_generate=True,
                output_logits=True,
            )
    finally:
        model.generation_config = own
    logits_sv: Floats = torch.cat(result.logits).double().numpy()
    return result.sequences[0, -steps:].numpy(), logits_sv
