"""The kinds of models that run graphs."""

from __future__ import annotations

from collections.abc import Sequence

from amp_export.exporters.models.decoder import PAST, GraphDecoder
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.models.session import Session

GraphModel = GraphDecoder | GraphEncoder | GraphEncoderDecoder


def choose_model(sessions: Sequence[Session]) -> GraphModel:
    """Return the model for its graphs.

    Args:
        sessions: One graph, or the three of an encoder-decoder.

    Raises:
        UnsupportedModelError: The kind of model is not known.
    """
    if len(sessions) > 1:
        return GraphEncoderDecoder(*sessions)
    (session,) = sessions
    if any(name.startswith(PAST) for name in session.inputs):
        return GraphDecoder(session)
    return GraphEncoder(session)
