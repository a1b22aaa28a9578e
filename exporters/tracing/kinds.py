"""The graphs to trace for each kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.architectures import Kind
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.files import GRAPH

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.exporters.tracing.jobs import Job


def model_kind(model: PreTrainedModel) -> Kind:
    """Return the kind of a model, which decides the graphs to trace."""
    from amp_export.checkpoints.loading import cache_argument

    if not model.can_generate():
        return Kind.ENCODER
    if model.config.is_encoder_decoder:
        return Kind.ENCODER_DECODER
    if cache_argument(model) is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} generates text without a KV cache.\nOnly decoders with attention, encoders and "
            "encoder-decoders are supported."
        )
    return Kind.DECODER


def tracing_jobs(model: PreTrainedModel, kind: Kind) -> list[Job]:
    """Return the trace jobs of a model.

    Raises:
        UnsupportedModelError: The model has inputs or a cache that are not supported.
    """
    from amp_export.exporters.tracing.decoders import decoder_jobs
    from amp_export.exporters.tracing.encoders import encoder_jobs
    from amp_export.exporters.tracing.seq2seq import seq2seq_jobs

    if kind is Kind.DECODER:
        return decoder_jobs(model, file=GRAPH)
    return encoder_jobs(model, file=GRAPH) if kind is Kind.ENCODER else seq2seq_jobs(model)
