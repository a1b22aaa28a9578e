"""The kinds of models that run graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amp_export.exporters.models.caches import is_past
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.models.ports import (
    EMBEDDINGS,
    FEATURES,
    check_decoder,
    check_encoder_decoder,
    check_vision_language,
)
from amp_export.exporters.models.session import Session
from amp_export.exporters.models.vision_language import GraphVisionLanguage

GraphModel = GraphDecoder | GraphEncoder | GraphEncoderDecoder | GraphVisionLanguage


def choose_model(sessions: Sequence[Session], folder: Path) -> GraphModel:
    """Return the model for its graphs.

    Args:
        sessions: One graph, or the three of an encoder-decoder or a vision-language model.
        folder: The folder that holds them, for messages.

    Raises:
        ModelError: Inputs and outputs do not fit together.
        UnsupportedModelError: The kind of model is not known.
    """
    *others, last = sessions
    if others and (EMBEDDINGS in last.inputs or FEATURES in sessions[0].outputs):
        check_vision_language(sessions, folder)
        return GraphVisionLanguage(*sessions)
    if others:
        check_encoder_decoder(sessions, folder)
        return GraphEncoderDecoder(*sessions)
    if any(is_past(name) for name in last.inputs):
        check_decoder(last, folder)
        return GraphDecoder(last)
    return GraphEncoder(last)
