"""Graphs of other exporters, held against the checkpoint that they came from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner, Result

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import ModelError, RequestError
from amp_export.exporters.models.session import Port
from amp_export.exporters.onnx import export
from amp_export.exporters.onnx.introspection.scopes import MODULES
from amp_export.exporters.onnx.third_party_decoders import map_ports
from amp_export.parity.comparison import compare_third_party
from amp_export.verb_options import ValidateOptions
from tests.support.shared import Converted
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

NAMES = {
    "past_key_values.3.key": (3, "key"),
    "past_key_values.12.value": (12, "value"),
    "input.cache.layers.0.keys": (0, "key"),
    "past_key_values.layers.1.values": (1, "value"),
    "past_value_2": (2, "value"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # the onnxruntime-genai builder's attention takes heads of a multiple of 16
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "checkpoint", "llama", head_dim=16)
    save_tiny_tokenizer(folder)
    return folder


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ports_of(*names: str, dtype: str = "int64") -> dict[str, Port]:
    return {name: Port(dtype, ("batch_size", "sequence_length")) for name in names}


@pytest.mark.parametrize(("name", "key"), NAMES.items())
def test_keys_and_values_are_told_by_their_names(name: str, key: tuple[int, str]) -> None:
    inputs = {**ports_of("input_ids"), **ports_of("attention_mask", dtype="bool"), **ports_of(name, dtype="float32")}
    ports = map_ports(inputs, ["logits", "present.3.key"])
    assert ports.past == {key: name}
    assert ports.present == {(3, "key"): "present.3.key"}
    assert ports.tokens == {"input_ids": "int64", "attention_mask": "bool"}


def test_inputs_that_cannot_be_told_are_listed() -> None:
    with pytest.raises(RequestError, match="has unknown inputs: beam_idx, use_cache_branch"):
        map_ports(ports_of("input_ids", "beam_idx", "use_cache_branch"), ["logits"])
    with pytest.raises(RequestError, match="has no input_ids and no logits"):
        map_ports(ports_of("attention_mask"), ["last_hidden_state"])


@pytest.mark.slow
def test_the_genai_builders_graph_fails_where_texts_are_padded_on_the_left(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    subprocess.run([*builder, "-m", checkpoint, "-o", tmp_path / "genai"], check=True, capture_output=True)
    report = compare_third_party(tmp_path / "genai" / "model.onnx", checkpoint, ValidateOptions(explain=True))
    # GroupQueryAttention counts a row's tokens, and takes them for the first ones
    assert [case.name.split(" of ")[0] for case in report.cases if not case.holds] == ["left-padded batch"]
    assert report.greedy is not None
    assert report.greedy.holds
    assert report.explanation is not None
    assert report.explanation.first is not None
    assert report.explanation.first.module == "model.layers.0.self_attn.o_proj"
    assert "GroupQueryAttention" in report.explanation.operators
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps([{"name": "one text", "prompt_lengths": [9], "decode_steps": 3}]))
    passed = call("validate", "--onnx", tmp_path / "genai", "--reference", checkpoint, "--cases", cases, "--json")
    assert passed.exit_code == 0, passed.output
    assert json.loads(passed.stdout)["parity"]["holds"]


def rename_cache(graph: Path) -> None:
    """Gives keys and values the names that transformers' exporter gives them."""
    model = onnx.load(graph, load_external_data=False)

    def renamed(name: str) -> str:
        name = re.sub(r"^past_key_values\.(\d+)\.(\w+)", r"input.cache.layers.\1.\2s", name)
        return re.sub(r"^present\.(\d+)\.(\w+)", r"output.cache.layers.\1.\2s", name)

    for value in (*model.graph.input, *model.graph.output):
        value.name = renamed(value.name)
    for node in model.graph.node:
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    ids = next(value for value in model.graph.input if value.name == "input_ids")
    ids.type.tensor_type.shape.dim[1].dim_value = 1
    graph.write_bytes(model.SerializeToString())


def test_a_graph_for_prompts_and_one_for_later_tokens_are_one_decoder(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    export(open_checkpoint(checkpoint), folder)
    (folder / "model.onnx").rename(folder / "prefill.onnx")
    (folder / "decode.onnx").write_bytes((folder / "prefill.onnx").read_bytes())
    rename_cache(folder / "decode.onnx")
    report = compare_third_party(folder, checkpoint)
    assert report.holds
    # the second graph takes one token alone
    assert not any(case.name.startswith("chunks") for case in report.cases)
    assert any(case.name.startswith("left-padded") for case in report.cases)


@pytest.mark.parametrize(
    ("layers", "told"), [(2, "has the keys of layer 2, while the reference has 2"), (4, "lacks the keys of layer 3")]
)
def test_a_cache_of_other_layers_than_the_references_is_told(
    layers: int, told: str, checkpoint: Path, tmp_path: Path
) -> None:
    export(open_checkpoint(checkpoint), tmp_path / "onnx")
    other = save_tiny_model(tmp_path / "other", "llama", head_dim=16, num_hidden_layers=layers)
    with pytest.raises(RequestError, match=told):
        compare_third_party(tmp_path / "onnx", other)


def test_a_graph_of_our_own_is_one_too_and_a_fault_in_it_fails(checkpoint: Path, tmp_path: Path) -> None:
    export(open_checkpoint(checkpoint), tmp_path / "onnx")
    assert compare_third_party(tmp_path / "onnx", checkpoint).holds
    other = save_tiny_model(tmp_path / "other", "llama", head_dim=16, rms_norm_eps=0.1)
    result = call("validate", "--onnx", tmp_path / "onnx" / "model.onnx", "--reference", other)
    assert result.exit_code == 1
    assert "Parity FAILS" in result.output


def test_a_graph_may_ask_how_many_logits_to_keep(checkpoint: Path, tmp_path: Path) -> None:
    graph = export(open_checkpoint(checkpoint), tmp_path / "onnx").graph
    model = onnx.load(graph, load_external_data=False)
    # without its default, the input has to be given, as transformers.js does
    (default,) = (tensor for tensor in model.graph.initializer if tensor.name == "num_logits_to_keep")
    model.graph.initializer.remove(default)
    graph.write_bytes(model.SerializeToString())
    assert compare_third_party(graph, checkpoint).holds


def rename_as_others(graph: Path) -> None:
    """Calls axes what another exporter would, and an encoder's modules as if it were the whole model."""
    model = onnx.load(graph, load_external_data=False)
    for entry in model.metadata_props:
        if graph.name == "encoder_model.onnx" and entry.key == MODULES:
            found = json.loads(entry.value)
            entry.value = json.dumps({name.removeprefix("encoder."): value for name, value in found.items()})
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = f"s_{axis.dim_param}"
    graph.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(("model_type", "graph"), [("bert", "model.onnx"), ("vit", "."), ("t5", ".")])
def test_graphs_of_other_kinds_are_told_by_the_checkpoint(
    model_type: str, graph: str, converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    made = converted(model_type)
    folder = Path(shutil.copytree(made.output / "onnx", tmp_path / "onnx"))
    for file in folder.glob("*.onnx"):
        rename_as_others(file)
    result = call("validate", "--onnx", folder / graph, "--reference", made.output / "pruned", "--explain", "--json")
    assert result.exit_code == 0, result.output
    parity = json.loads(result.stdout)["parity"]
    assert len(parity["cases"]) == len(made.report["parity"]["cases"])
    # padding is left out of what has an entry for each token
    positions = [case["positions"] for case in made.report["parity"]["cases"]]
    assert [case["positions"] for case in parity["cases"]] == positions
    assert parity["explanation"]["first"] is None


def save_encoder(
    file: Path, *, takes: str = "input_ids", returns: str = "logits", length: int | str = "tokens"
) -> Path:
    """A graph that returns its input in another type."""
    value, axes = onnx.helper.make_tensor_value_info, ["batch", length]
    node = onnx.helper.make_node("Cast", [takes], [returns], to=onnx.TensorProto.FLOAT)
    inputs, outputs = [value(takes, onnx.TensorProto.INT64, axes)], [value(returns, onnx.TensorProto.FLOAT, axes)]
    graph = onnx.helper.make_graph([node], "tiny", inputs, outputs)
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), file)
    return file


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"takes": "tokens"}, "has unknown inputs: tokens.\nKnown inputs are input_ids, attention_mask"),
        ({"returns": "scores"}, "returns scores, but needs to return one of these as floating-point numbers: logits"),
        (
            {"length": 7},
            r"does not run on input_ids \[1, 1\]: (?s:.*)Give cases of shapes that it supports with "
            "--cases",
        ),
    ],
)
def test_what_an_encoder_takes_and_returns_must_be_known(
    difference: dict[str, Any], message: str, tmp_path: Path
) -> None:
    reference = save_tiny_model(tmp_path / "checkpoint", "bert")
    graph = save_encoder(tmp_path / "model.onnx", **difference)
    with pytest.raises(RequestError, match=message):
        compare_third_party(graph, reference)


def test_an_encoder_with_a_decoder_has_three_graphs_whose_order_is_known(tmp_path: Path) -> None:
    reference = save_tiny_model(tmp_path / "checkpoint", "t5")
    save_encoder(tmp_path / "encoder_model.onnx")
    with pytest.raises(ModelError, match=r"There is no .*decoder_model\.onnx"):
        compare_third_party(tmp_path, reference)
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
        save_encoder(tmp_path / name)
    with pytest.raises(RequestError, match="returns logits, but its first output must be last_hidden_state"):
        compare_third_party(tmp_path, reference)


def test_bad_graphs_are_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no .*nothing\.onnx"):
        compare_third_party(tmp_path / "nothing.onnx", checkpoint)
    for arguments in (
        ["validate"],
        ["validate", "--onnx", "g"],
        ["validate", "out", "--onnx", "g", "--reference", "c"],
    ):
        assert call(*arguments).exit_code == 2
