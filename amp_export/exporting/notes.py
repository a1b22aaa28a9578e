"""Notes on what texts an exported decoder takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from amp_export.architectures import Kind
from amp_export.exporters.onnx.genai import cannot_describe
from amp_export.options import Operators, Via

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig
    from amp_export.checkpoints.reading import Checkpoint


def context_notes(config: ModelConfig, via: Via) -> Iterator[str]:
    """Yield what the user of an exported graph has to know about the length of texts.

    Args:
        config: Config of the exported checkpoint.
        via: How the graph is made; a traced graph computes positions of any length.
    """
    if config.architecture.kind is not Kind.DECODER:
        return
    if via is Via.DIRECT:
        stated = config.max_position_embeddings
        origin = (
            "max_position_embeddings in config.json"
            if config.context == stated
            else f"the original context times the factor of YaRN; max_position_embeddings in config.json is {stated:,}"
        )
        yield f"The graph takes texts of up to {config.context:,} tokens: {origin}."
    if (limit := config.cache_limit) is not None:
        yield (
            f"Where a text passes {limit:,} tokens, give all of it to the graph again, with an empty KV cache: "
            "longrope then has other frequencies for every token, and transformers also computes the cache anew. A "
            f"genai_config.json limits texts to {limit:,} tokens."
        )


def genai_notes(checkpoint: Checkpoint, via: Via) -> Iterator[str]:
    """Yield why a folder has no genai_config.json, if that is so."""
    if via is Via.DIRECT and (reason := cannot_describe(checkpoint)) is not None:
        yield f"No genai_config.json is written for onnxruntime-genai: {reason}."


def cache_notes(length: int | None) -> Iterator[str]:
    """Yield what the user of a graph with a KV cache of fixed length has to give to it."""
    if length is not None:
        yield (
            f"The KV cache has room for {length:,} tokens of a text, padding included. Give all of it, zeros at first, "
            "with an attention_mask of that length, and in write_indices where the new tokens of each text begin. "
            "onnxruntime-genai and Optimum give no such input."
        )


def operator_notes(operators: Operators) -> Iterator[str]:
    """Yield what the user of a graph has to know about its operators."""
    if operators is Operators.ONNXRUNTIME:
        yield (
            "The graph runs in ONNX Runtime only, and takes no padding: give texts of one length together, or one at a "
            "time."
        )
