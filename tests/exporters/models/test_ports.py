"""Graphs whose inputs and outputs do not fit together are refused before they run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import ModelError, RequestError
from amp_export.exporters.models.kinds import choose_model
from amp_export.exporters.models.session import Port, Session

CACHE = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
TOKENS = Port("int64", ("batch", "sequence"))
FLOATS = Port("float32", ("batch", 2, "sequence", 8))
FOLDER = Path("out/onnx")


def session(inputs: list[str], outputs: list[str]) -> Any:
    ports = {name: TOKENS if name.endswith(("ids", "mask")) else FLOATS for name in inputs}
    found = dict.fromkeys(outputs, FLOATS)
    facts = {"threads": 1, "description": "none", "takes_padding": True}
    unknown = dict.fromkeys(("limits", "context", "activation_block"))
    return SimpleNamespace(inputs=ports, outputs=found, **facts, **unknown)


DECODER = (
    ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in CACHE)],
    ["logits", *(f"present.{name}" for name in CACHE)],
)
PARTS = [f"{layer}.{part}.{kind}" for layer in range(2) for part in ("decoder", "encoder") for kind in ("key", "value")]
ENCODER_DECODER = (
    (["input_ids", "attention_mask"], ["last_hidden_state"]),
    (
        ["input_ids", "encoder_attention_mask", "encoder_hidden_states"],
        ["logits", *(f"present.{name}" for name in PARTS)],
    ),
    (
        ["input_ids", "encoder_attention_mask", *(f"past_key_values.{name}" for name in PARTS)],
        ["logits", *(f"present.{name}" for name in PARTS if ".decoder." in name)],
    ),
)


VISION_LANGUAGE = (
    (["pixel_values"], ["image_features"]),
    (["input_ids"], ["inputs_embeds"]),
    (["inputs_embeds", *DECODER[0][1:]], DECODER[1]),
)


def test_graphs_that_fit_are_taken() -> None:
    for graphs in ([DECODER], ENCODER_DECODER, VISION_LANGUAGE):
        assert choose_model([session(*ports) for ports in graphs], FOLDER).num_layers == 2


@given(data=st.data())
def test_one_port_less_or_more_is_named(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([[DECODER], ENCODER_DECODER, VISION_LANGUAGE]))
    graphs = [[list(names) for names in ports] for ports in kind]
    number = data.draw(st.integers(0, len(graphs) - 1))
    names = graphs[number][data.draw(st.integers(0, 1))]
    # a mask or positions that a graph does without are no fault, nor is a further output; encoders say what they take
    removable = [name for name in names if "mask" not in name and name not in {"position_ids", "encoder_hidden_states"}]
    if kind is ENCODER_DECODER and number == 0:
        at = data.draw(st.sampled_from(["last_hidden_state"]))
        names = graphs[number][1]
    else:
        at = data.draw(st.sampled_from([*removable, "unknown"]))
    if at == "unknown":
        names = graphs[number][0]
        names.append(at)
    else:
        names.remove(at)
    with pytest.raises(ModelError) as refused:
        choose_model([session(*ports) for ports in graphs], FOLDER)
    # a key that is taken and one that is returned have the same layer and part
    assert at.partition(".")[2] in str(refused.value)
    assert "out/onnx" in str(refused.value)


def test_an_input_that_is_not_given_is_a_request_to_refuse() -> None:
    graph = session(["input_ids", "token_type_ids"], ["last_hidden_state"])
    with pytest.raises(RequestError, match="also needs the inputs token_type_ids; got input_ids"):
        Session.choose_inputs(graph, {"input_ids": None})
