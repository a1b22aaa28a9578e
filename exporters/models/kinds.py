"""The kinds of models that run graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.models.ports import PAST, check_decoder, check_encoder_decoder
from amp_export.exporters.models.session import Session

GraphModel = GraphDecoder | GraphEncoder | GraphEncoderDecoder


def choose_model(sessions: Sequence[Session], folder: Path) -> GraphModel:
    """Return the model for its graphs.

    Args:
        sessions: One graph, or the three of an encoder-decoder.
        folder: The folder that holds them, for messages.

    Raises:
        ModelError: Inputs and outputs do not fit together.
        UnsupportedModelError: The kind of model is not known.
    """
    if len(sessions) > 1:
        check_encoder_decoder(sessions, folder)
        return GraphEncoderDecoder(*sessions)
    (session,) = sessions
    if any(name.startswith(PAST) for name in session.inputs):
        check_decoder(session, folder)
        return GraphDecoder(session)
    return GraphEncoder(session)
