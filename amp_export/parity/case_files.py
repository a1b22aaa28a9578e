"""Parity cases read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.architectures import Kind, ModelConfig
from amp_export.documents import convert, parse_json, read_text
from amp_export.errors import RequestError
from amp_export.parity.decoder_cases import Case, outgrows_cache
from amp_export.parity.encoder_cases import EncoderCase
from amp_export.parity.seq2seq_cases import Seq2SeqCase

if TYPE_CHECKING:
    from amp_export.parity.suites import AnyCase

CASES: Mapping[Kind, type[Case | EncoderCase | Seq2SeqCase]] = {
    Kind.DECODER: Case,
    Kind.ENCODER: EncoderCase,
    Kind.ENCODER_DECODER: Seq2SeqCase,
}


def read_cases(file: Path, config: ModelConfig) -> Sequence[AnyCase]:
    """Read cases from a JSON list of objects with the fields of `Case`, `EncoderCase` or `Seq2SeqCase`.

    Args:
        file: The file.
        config: The model's config; its kind determines which of the three is expected.

    Raises:
        RequestError: The file cannot be read, holds no cases, or has an invalid entry, which the message names.
    """
    kind = CASES[config.architecture.kind]
    example = f'For example: [{{"name": "batch of 2", "{_lengths(kind)}": [5, 17]}}].'
    content = parse_json(read_text(file, error=RequestError), source=str(file), error=RequestError)
    try:
        cases = convert(content, list[kind], source=str(file), error=RequestError)  # type: ignore[valid-type]
        if not cases:
            raise RequestError(f"{file} holds no cases: expected a list with at least one.")
    except RequestError as error:
        raise RequestError(f"{error}\n{example}") from error
    for case in cases:
        _check_length(case, config, file)
    return cases


def _check_length(case: AnyCase, config: ModelConfig, file: Path) -> None:
    """Refuse texts that the model does not take, or that no KV cache goes through.

    Raises:
        RequestError: The case has such a text.
    """
    limit, length = config.longest_text, case.longest_text
    if limit is not None and length > limit:
        raise RequestError(
            f"{file}: the case {case.name!r} has a text of {length} tokens, but the model takes at most {limit}.\n"
            "Give shorter texts, prompt and output together."
        )
    if isinstance(case, Case) and outgrows_cache(case, config.cache_limit):
        raise RequestError(
            f"{file}: the case {case.name!r} continues a KV cache from {max(case.prompt_lengths)} to {length} tokens. "
            f"Beyond {config.cache_limit}, longrope has other frequencies for every token, and transformers computes "
            f"the cache anew.\nGive a prompt of more than {config.cache_limit} tokens, or texts that end there."
        )


def _lengths(kind: type[Case | EncoderCase | Seq2SeqCase]) -> str:
    return next(field.name for field in fields(kind) if field.name.endswith("lengths"))
