from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from amp_export.errors import UnsupportedModelError
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.models.session import Port


def session(inputs: dict[str, Port], outputs: dict[str, Port]) -> Any:
    return SimpleNamespace(
        inputs=inputs,
        outputs=outputs,
        threads=1,
        description="none",
        limits=None,
        takes_padding=True,
        activation_block=None,
    )


def test_a_graph_of_integers_is_refused() -> None:
    integers = Port("int64", ("batch", 2, "past", 8))
    with pytest.raises(UnsupportedModelError, match=r"past_key_values\.0\.key has the dtype int64"):
        GraphDecoder(session({"past_key_values.0.key": integers}, {"logits": integers}))
    encoder = session({}, {"last_hidden_state": integers})
    with pytest.raises(UnsupportedModelError, match="last_hidden_state has the dtype int64"):
        GraphEncoderDecoder(encoder, encoder, encoder)


def test_a_graph_whose_heads_are_not_fixed_is_refused() -> None:
    cache = Port("float32", ("batch", "heads", "past", 8))
    graph = session({"past_key_values.0.key": cache}, {"logits": cache})
    graph.to_value = np.asarray
    decoder = GraphDecoder(graph)
    ones = np.ones((1, 3), np.int64)
    with pytest.raises(UnsupportedModelError, match="no fixed number and width of heads"):
        decoder.forward(ones, ones, ones)
