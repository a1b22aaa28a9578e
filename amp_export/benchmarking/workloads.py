"""Workloads: batch size, prompt length and decode length; a single one or a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amp_export.architectures import Architecture, Kind, Modality, ModelConfig
from amp_export.errors import RequestError
from amp_export.exporters.limits import Limits
from amp_export.options import Phase

PROMPT_TOKENS = 128
DECODE_TOKENS = 16

WAVEFORM_SAMPLES = 160_000
"""Length of raw audio: ten seconds at 16 kHz, at which Wav2Vec 2.0 and HuBERT sample (arXiv 2006.11477)."""

PHASES: Mapping[Kind, tuple[Phase, ...]] = {
    Kind.DECODER: (Phase.PREFILL, Phase.DECODE),
    Kind.ENCODER: (Phase.FORWARD,),
    Kind.ENCODER_DECODER: (Phase.ENCODE, Phase.DECODE),
}
"""What is timed, by kind of model."""


@dataclass(frozen=True)
class Workload:
    """One batch of texts, images or audio, processed in one call, and the tokens decoded after it.

    Attributes:
        batch_size: Number of texts, images or audio inputs.
        prompt_tokens: Tokens of each text; 0 for images and audio.
        decode_tokens: Tokens decoded after each; 0 for an encoder.
    """

    batch_size: int
    prompt_tokens: int
    decode_tokens: int


@dataclass(frozen=True)
class Sweep:
    """The requested workloads: every combination; the first of each is the main one.

    Attributes:
        batch_sizes: Batch sizes.
        prompt_lengths: Prompt lengths in tokens; by default 128, or fewer if the models' context is shorter.
        decode_lengths: Numbers of tokens to decode.
    """

    batch_sizes: tuple[int, ...] = (1,)
    prompt_lengths: tuple[int, ...] | None = None
    decode_lengths: tuple[int, ...] = (DECODE_TOKENS,)

    def workloads(self, configs: Sequence[ModelConfig], limits: Sequence[Limits] = ()) -> tuple[Workload, ...]:
        """Return all combinations, adapted to the models.

        Args:
            configs: Configs of the models that run them; they differ only in their widths.
            limits: Limits of their exports, if these have any.

        Raises:
            RequestError: A number is below 1, a combination does not fit the models' context or an export's limits, or
                lengths are given that the models do not have.
        """
        asked = (*self.batch_sizes, *(self.prompt_lengths or ()), *self.decode_lengths)
        if not (self.batch_sizes and self.decode_lengths and self.prompt_lengths != ()) or min(asked) < 1:
            raise RequestError(
                f"Batches of {_list(self.batch_sizes)}, prompts of "
                f"{_list(self.prompt_lengths or (PROMPT_TOKENS,))} and {_list(self.decode_lengths)} decoded tokens: "
                "there must be at least one of each."
            )
        architecture = configs[0].architecture
        if architecture.modality is not Modality.TEXT and self.prompt_lengths is not None:
            raise RequestError(f"{architecture.model_type} does not take text, so --context does not apply.")
        if architecture.kind is Kind.ENCODER and self.decode_lengths != (DECODE_TOKENS,):
            raise RequestError(f"{architecture.model_type} generates no tokens, so --generate does not apply.")
        self._check_batches(min((each.max_batch for each in limits), default=None))
        contexts = [*(config.longest_text for config in configs), *(each.max_context for each in limits)]
        context = min((each for each in contexts if each is not None), default=None)
        decode_lengths = self.decode_lengths if architecture.kind is not Kind.ENCODER else (0,)
        combinations = itertools.product(self.batch_sizes, self.prompt_lengths or (None,), decode_lengths)
        return tuple(
            Workload(batch_size, _prompt_tokens(asked, decode_tokens, architecture, context), decode_tokens)
            for batch_size, asked, decode_tokens in combinations
        )

    def _check_batches(self, most: int | None) -> None:
        if most is not None and max(self.batch_sizes) > most:
            raise RequestError(
                f"A batch of {max(self.batch_sizes)} does not fit an export made for batches of up to {most}.\n"
                f"Export again with --max-batch {max(self.batch_sizes)}, or measure smaller batches."
            )


def _prompt_tokens(asked: int | None, decode_tokens: int, architecture: Architecture, context: int | None) -> int:
    """Return the number of prompt tokens; a decoder's prompt and output share one context, others have one for each."""
    wanted = (asked or PROMPT_TOKENS) if architecture.modality is Modality.TEXT else 0
    if context is None:
        return wanted
    kind = architecture.kind
    room = context - decode_tokens - (kind is Kind.ENCODER_DECODER)
    if room < (kind is Kind.DECODER):
        raise RequestError(f"{decode_tokens} decoded tokens and a prompt do not fit into a context of {context}.")
    most = room if kind is Kind.DECODER else context
    if asked is not None and asked > most:
        after = f" and {decode_tokens} after it" if kind is Kind.DECODER else ""
        raise RequestError(
            f"A prompt of {asked} tokens{after} does not fit into a context of {context}.\n"
            f"The longest that does has {most}."
        )
    return min(wanted, most)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
