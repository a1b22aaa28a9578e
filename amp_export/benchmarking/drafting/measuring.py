"""Measures speculative decoding in the runtime that a pair of models is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amp_export.benchmarking.drafting.base import OpenPair
from amp_export.benchmarking.drafting.genai import GenaiPair
from amp_export.benchmarking.drafting.llama_cpp import LlamaPair
from amp_export.benchmarking.drafting.results import DraftedText, DraftMeasurement
from amp_export.exporting.drafting import DENSE
from amp_export.hardware.threads import usable_cores
from amp_export.progress import Advance


def measure_draft(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    draft_tokens: int,
    threads: int | None = None,
    on_progress: Advance | None = None,
) -> DraftMeasurement:
    """Generate each text greedily with the dense model alone and with drafts, one after the other.

    Args:
        folder: Folder that `exporting.drafting.write_pair` wrote.
        prompts: Token ids of each prompt.
        new_tokens: Tokens to generate of each; nothing ends a text earlier.
        draft_tokens: Tokens to draft in llama.cpp; onnxruntime-genai reads their number in the folder.
        threads: Threads of each model; by default one per core.
        on_progress: Called with the number of measured texts and their total, after each.

    Raises:
        MissingExtraError: The runtime is not installed.
        ModelError: It cannot open the folder.
    """
    threads = threads if threads is not None else usable_cores()
    pair: OpenPair
    if (folder / f"{DENSE}.gguf").is_file():
        context = max(map(len, prompts)) + new_tokens
        pair = LlamaPair(folder, threads=threads, draft_tokens=draft_tokens, context=context)
    else:
        pair = GenaiPair(folder, threads=threads)
    for generate in (pair.generate_alone, pair.generate_drafted):
        generate(prompts[0], new_tokens)  # the first text of a model is slower
    texts = []
    for done, prompt in enumerate(prompts, start=1):
        texts.append(_measure_text(pair, prompt, new_tokens))
        if on_progress is not None:
            on_progress(done, len(prompts))
    return DraftMeasurement.of(pair.description, texts)


def _measure_text(pair: OpenPair, prompt: Sequence[int], new_tokens: int) -> DraftedText:
    alone, drafted = pair.generate_alone(prompt, new_tokens), pair.generate_drafted(prompt, new_tokens)
    both = enumerate(zip(alone.tokens, drafted.tokens, strict=True))
    differs = next((number for number, (one, other) in both if one != other), None)
    tie = None
    if differs is not None:
        tie = pair.gap([*prompt, *alone.tokens[:differs]], alone.tokens[differs], drafted.tokens[differs])
    return DraftedText(
        prompt_tokens=len(prompt),
        tokens=len(drafted.tokens),
        drafted=drafted.drafted,
        accepted=drafted.accepted,
        rounds=drafted.rounds,
        dense_seconds=alone.seconds,
        drafted_seconds=drafted.seconds,
        first_difference=differs,
        tie=tie,
    )
