"""Parity cases of encoder-decoders: sources, padding, and target tokens decoded one by one.

PyTorch computes all target tokens in one pass without a KV cache, so that errors in the graphs' cache show up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amp_export.architectures import Modality, ModelConfig
from amp_export.exporters.limits import Limits
from amp_export.inputs.random import as_tensors
from amp_export.inputs.tokens import Floats, Integers, draw_rows
from amp_export.inputs.waveforms import takes_waveforms
from amp_export.options import Dtype
from amp_export.parity.decoder_cases import Count, TokenCounts
from amp_export.parity.encoder_cases import Inputs, Outputs, as_rows, real_tokens, signal_inputs, text_inputs
from amp_export.parity.switches import switches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder

OUTPUTS = ("last_hidden_state", "logits")
"""The compared outputs: the encoder's last hidden state and the decoder's logits."""

Write = Callable[[Inputs, Integers, int], Outputs]
"""(source, target token ids [batch, sequence], number of them in the first call) to `OUTPUTS`."""


@dataclass(frozen=True)
class Seq2SeqCase:
    """One source and its target tokens.

    Attributes:
        name: Name in a report.
        source_lengths: Tokens of each row's source, or frames of raw audio; shorter ones are padded on the right. Other
            audio has a fixed size and ignores them.
        written: Number of target tokens in the first call.
        decode_steps: Number of single-token calls after it, with the KV cache.
    """

    name: str
    source_lengths: TokenCounts
    written: Count = 1
    decode_steps: Count = 0

    @property
    def tokens(self) -> int:
        """Number of source and target tokens of all rows, including padding."""
        return len(self.source_lengths) * (max(self.source_lengths) + self.written + self.decode_steps)

    @property
    def longest_text(self) -> int:
        """Number of tokens of the longest row, of source or target; audio counts as one."""
        return max(*self.source_lengths, self.written + self.decode_steps)

    @property
    def is_varied(self) -> bool:
        """Whether all graphs are run, including that for decode steps."""
        return self.decode_steps > 0


TEXT_CASES = (
    Seq2SeqCase("1 source token, 1 target token", (1,)),
    Seq2SeqCase("17 source tokens, 5 target tokens in one call", (17,), written=5),
    Seq2SeqCase("128 source tokens, 17 target tokens in one call", (128,), written=17),
    Seq2SeqCase("17 source tokens, 8 decode steps after 1 token", (17,), decode_steps=8),
    Seq2SeqCase("right-padded batch of 5, 11 and 17 source tokens, 8 decode steps after 4", (5, 11, 17), 4, 8),
)

SOUND_CASES = (
    Seq2SeqCase("audio, 1 token generated", (1,)),
    Seq2SeqCase("audio, 17 tokens in one call", (1,), written=17),
    Seq2SeqCase("audio, 8 decode steps after 4 tokens", (1,), written=4, decode_steps=8),
    Seq2SeqCase("batch of 3 audio inputs, 8 decode steps after 1 token", (1, 1, 1), decode_steps=8),
)

WAVEFORM_CASES = (
    Seq2SeqCase("1 frame, 1 token generated", (1,)),
    Seq2SeqCase("17 frames, 5 tokens in one call", (17,), written=5),
    Seq2SeqCase("128 frames, 17 tokens in one call", (128,), written=17),
    Seq2SeqCase("17 frames, 8 decode steps after 1 token", (17,), decode_steps=8),
    Seq2SeqCase("right-padded batch of 5, 11 and 17 frames, 8 decode steps after 4 tokens", (5, 11, 17), 4, 8),
)


def writing_cases(config: ModelConfig) -> tuple[Seq2SeqCase, ...]:
    """Return the default cases for a model that fit its maximum text length."""
    cases = TEXT_CASES if config.architecture.modality is Modality.TEXT else SOUND_CASES
    if takes_waveforms(config):
        cases = WAVEFORM_CASES
    limit = config.longest_text
    crossing = (
        Seq2SeqCase(
            f"{each.tokens + 8} source and target tokens, across the {each.name} of {each.tokens}",
            (each.tokens + 8,),
            written=each.tokens,
            decode_steps=8,
        )
        for each in switches(config)
        if each.is_reached
    )
    return tuple(case for case in (*cases, *crossing) if limit is None or case.longest_text <= limit)


def writing_cases_within(cases: Iterable[Seq2SeqCase], limits: Limits | None) -> tuple[Seq2SeqCase, ...]:
    """Return the cases that fit the graphs' limits; audio counts as one token."""
    return tuple(
        case
        for case in cases
        if limits is None or (len(case.source_lengths) <= limits.max_batch and case.longest_text <= limits.max_context)
    )


def source_inputs(lengths: Sequence[int], config: ModelConfig, pool: Integers, *, dtype: Dtype) -> Inputs:
    """Return the encoder's inputs for texts of some lengths, or for as many audio inputs."""
    if config.architecture.modality is Modality.TEXT:
        return text_inputs(lengths, config, pool)
    return signal_inputs(lengths, config, dtype)


def replay_writing(
    case: Seq2SeqCase, config: ModelConfig, pool: Integers, write: Write, *, dtype: Dtype
) -> dict[str, Floats]:
    """Run a case through an encoder-decoder.

    Args:
        case: The case to run.
        config: The model's config.
        pool: Token ids to draw from.
        write: The model.
        dtype: Dtype of the graph.

    Returns:
        The encoder's last hidden state at real positions, and all logits, float64 [positions, features].
    """
    rows = len(case.source_lengths)
    source = source_inputs(case.source_lengths, config, pool, dtype=dtype)
    # the target is drawn from the pool's other end, so that it differs from the source
    written_bs = draw_rows(pool[::-1].copy(), rows, case.written + case.decode_steps)
    found = dict(write(source, written_bs, case.written))
    if (real_bs := real_tokens(source, config)) is not None:
        found["last_hidden_state"] = found["last_hidden_state"][real_bs]
    return {name: as_rows(values) for name, values in found.items()}


def graph_writer(graph: GraphEncoderDecoder) -> Write:
    """Return a function that runs the three graphs: encoder, first decoder call, and a call with KV cache per token."""

    def write(inputs: Inputs, written_bs: Integers, first: int) -> Outputs:
        source = graph.encode(inputs)
        logits_bsv, past = graph.decode(written_bs[:, :first], source)
        collected = [logits_bsv]
        for place in range(first, written_bs.shape[1]):
            logits_bsv, past = graph.decode(written_bs[:, place : place + 1], source, past)
            collected.append(logits_bsv)
        return {"last_hidden_state": graph.states(source), "logits": np.concatenate(collected, axis=1)}

    return write


def torch_writer(model: PreTrainedModel) -> Write:
    """Return a function that runs a transformers model: all target tokens in one pass, without a KV cache."""
    import torch

    def write(inputs: Inputs, written_bs: Integers, first: int) -> Outputs:
        del first
        given = as_tensors(inputs, model)
        result = model(**given, decoder_input_ids=torch.from_numpy(written_bs), use_cache=False, return_dict=True)
        return {
            "last_hidden_state": result.encoder_last_hidden_state.double().numpy(),
            "logits": result.logits.double().numpy(),
        }

    return write
