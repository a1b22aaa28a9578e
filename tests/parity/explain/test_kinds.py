"""Faults within encoders, encoders with a decoder, and graphs of other exporters: the place that is named is theirs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from typer.testing import CliRunner

from amp_export.architectures import Kind, supported_model_types
from amp_export.checkpoints.loading import load_model, module_names
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.files import DECODER, DECODER_WITH_PAST, ENCODER
from amp_export.exporters.onnx import export
from amp_export.exporters.onnx.introspection.scopes import SCOPES, Scoped, enclosing, module_values, returned_values
from amp_export.exporters.onnx.sessions import exported_graphs
from amp_export.exporters.onnx.third_party import third_party_files
from amp_export.parity.comparison import compare, compare_third_party
from amp_export.parity.encoder_cases import EncoderCase
from amp_export.parity.explain.explanation import Explanation, explain, plan_taps
from amp_export.parity.seq2seq_cases import Seq2SeqCase
from amp_export.progress import Silent
from amp_export.reporting.html.sections import parity_section
from amp_export.reporting.wording import by_graph
from amp_export.verb_options import ValidateOptions
from tests.support.faults import CASE, swap_heads, wrong_model
from tests.support.shared import Converted
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

pytestmark = pytest.mark.slow

Change = Callable[[Any], Any]

TEXTS = EncoderCase("padded batch", (4, 9))
IMAGES = EncoderCase("two images", (1, 1))
WRITING = Seq2SeqCase("padded batch", (5, 9), written=4, decode_steps=2)


def look_within(checkpoint: Path, folder: Path, case: Any) -> Explanation:
    return explain(plan_taps(checkpoint, exported_graphs(folder)), case, progress=Silent())


def assert_first(found: Explanation, module: str, *, graph: str, layer: int | None) -> None:
    """The fault is where it was planted, and nothing before it is blamed."""
    assert found.first is not None
    assert (found.first.module, found.first.graph, found.first.layer) == (module, graph, layer)
    before = found.points[: found.points.index(found.first)]
    assert before
    assert all(point.holds for point in before)


BERT_FAULTS: dict[str, tuple[Change, str]] = {
    "heads swapped": (lambda model: swap_heads(model.bert.encoder.layer[1]), "attention.self.query"),
    "weight transposed": (
        lambda model: model.bert.encoder.layer[1].attention.output.dense.weight.copy_(
            model.bert.encoder.layer[1].attention.output.dense.weight.T.clone()
        ),
        "attention.output.dense",
    ),
    "norm": (lambda model: model.bert.encoder.layer[1].output.LayerNorm.weight[2].add_(0.01), "output.LayerNorm"),
    "bias of one neuron": (
        lambda model: model.bert.encoder.layer[1].intermediate.dense.bias[3].add_(0.01),
        "intermediate.dense",
    ),
}


@pytest.mark.parametrize("fault", BERT_FAULTS)
def test_a_fault_in_an_encoder_is_found_where_it_is(
    fault: str, converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    change, place = BERT_FAULTS[fault]
    output = converted("bert").output
    other = wrong_model(output / "pruned", tmp_path, change)
    assert not compare(other, output / "onnx", threads=1, progress=Silent(), cases=[TEXTS]).holds
    found = look_within(other, output / "onnx", TEXTS)
    assert_first(found, f"bert.encoder.layer.1.{place}", graph="model.onnx", layer=1)


WRITING_FAULTS: dict[str, tuple[Change, str, str]] = {
    "encoder's neurons": (
        lambda model: model.encoder.block[1].layer[1].DenseReluDense.wo.weight[0].add_(0.01),
        "encoder.block.1.layer.1.DenseReluDense.wo",
        ENCODER,
    ),
    "keys of what is read": (
        lambda model: model.decoder.block[1].layer[1].EncDecAttention.k.weight[0].add_(0.01),
        "decoder.block.1.layer.1.EncDecAttention.k",
        DECODER,
    ),
}


@pytest.mark.parametrize("fault", WRITING_FAULTS)
def test_a_fault_in_an_encoder_with_a_decoder_is_found_in_its_graph(
    fault: str, converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    change, module, graph = WRITING_FAULTS[fault]
    output = converted("t5").output
    other = wrong_model(output / "pruned", tmp_path, change)
    assert not compare(other, output / "onnx", threads=1, progress=Silent(), cases=[WRITING]).holds
    assert_first(look_within(other, output / "onnx", WRITING), module, graph=graph, layer=1)


def test_a_fault_in_the_graph_for_later_tokens_alone_is_found_there(
    converted: Callable[[str], Converted], tmp_path: Path
) -> None:
    output = converted("t5").output
    folder = tmp_path / "onnx"
    folder.mkdir()
    for file in (output / "onnx").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = onnx.load(folder / DECODER_WITH_PAST, load_external_data=False)
    module = "decoder.block.1.layer.2.layer_norm"
    value = module_values(model)[module]
    norm = next(node for node in model.graph.node if value in node.output)
    next(entry for entry in norm.attribute if entry.name == "epsilon").f = 0.5
    (folder / DECODER_WITH_PAST).write_bytes(model.SerializeToString())
    report = compare(output / "pruned", folder, threads=1, progress=Silent(), cases=[WRITING])
    assert not report.holds
    found = look_within(output / "pruned", folder, WRITING)
    assert_first(found, module, graph=DECODER_WITH_PAST, layer=1)
    assert "RMSNormalization" in found.operators
    parts = list(by_graph(found))
    assert [part.points[0].graph for part in parts] == [ENCODER, DECODER, DECODER_WITH_PAST]
    assert [part.first is not None for part in parts] == [False, False, True]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    section = parity_section(structs.replace(report, explanation=found))
    assert f"(layer 1) of {DECODER_WITH_PAST}, computed by RMSNormalization" in section.lines[-1]
    assert [picture.title for picture in section.pictures[1:]] == [
        f"Intermediate values of {graph}, case: {WRITING.name}" for graph in (ENCODER, DECODER, DECODER_WITH_PAST)
    ]


@pytest.mark.parametrize(
    ("model_type", "case"), [("bert", TEXTS), ("vit", IMAGES), ("t5", WRITING), ("whisper", WRITING)]
)
def test_traced_graphs_that_are_right_have_nothing_to_explain(
    model_type: str, case: Any, converted: Callable[[str], Converted]
) -> None:
    output = converted(model_type).output
    found = look_within(output / "pruned", output / "onnx", case)
    assert found.first is None, found.first
    graphs = exported_graphs(output / "onnx")
    assert {point.graph for point in found.points} == {graph.name for graph in graphs}
    names = module_names(output / "pruned")
    for graph in graphs:
        kept = next(entry.value for entry in onnx.load(graph, load_external_data=False).metadata_props)
        # a name for each module that returns a value, and nothing of the machine that traced it
        assert set(json.loads(kept)) <= set(names)
        assert len(kept) < 0.15 * graph.stat().st_size


def test_the_command_explains_an_encoder(converted: Callable[[str], Converted], tmp_path: Path) -> None:
    output = converted("bert").output
    other = wrong_model(output / "pruned", tmp_path, BERT_FAULTS["heads swapped"][0])
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    result = CliRunner().invoke(app, ["validate", str(copy), "--reference", str(other), "--explain"])
    assert result.exit_code == 1, result.output
    text = " ".join(result.output.split())
    assert "the first that differs is bert.encoder.layer.1.attention.self.query (layer 1), computed by" in text
    assert "##" in text
    refused = CliRunner().invoke(app, ["validate", str(output), "--explain", "--to", "tensorrt"])
    assert refused.exit_code == 2
    assert "--explain works on ONNX graphs only" in refused.output


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "checkpoint", "llama")
    save_tiny_tokenizer(folder)
    return folder


def by_names(node: onnx.NodeProto, module: str | None) -> None:
    """As Optimum and TorchScript name nodes."""
    if module is not None:
        node.name = re.sub(r"\.(?!\d)", "/", f".{module}.{node.op_type}")


def by_metadata(node: onnx.NodeProto, module: str | None) -> None:
    """As torch's exporter notes them."""
    scopes = ["", *enclosing(module or ""), node.op_type.lower()]
    node.metadata_props.add(key=SCOPES, value=str(scopes))


def by_nothing(node: onnx.NodeProto, module: str | None) -> None:
    """As optimizers leave them."""


def third_party_graph(
    checkpoint: Path, file: Path, tell: Callable[[onnx.NodeProto, str | None], None]
) -> onnx.ModelProto:
    """A graph of another exporter: values have numbers, and nodes tell in its way which module they are of."""
    export(open_checkpoint(checkpoint), file.parent)
    model = onnx.load(file.parent / "model.onnx", load_external_data=False)
    modules = set(module_names(checkpoint))
    ports = {value.name for value in (*model.graph.input, *model.graph.output)}
    ports |= {tensor.name for tensor in model.graph.initializer} | {""}
    numbers: dict[str, str] = {}

    def numbered(name: str) -> str:
        return name if name in ports else numbers.setdefault(name, f"value_{len(numbers)}")

    del model.graph.value_info[:]
    for number, node in enumerate(model.graph.node):
        module = node.output[0] if node.output[0] in modules else None
        node.name = f"node_{number}"
        tell(node, module)
        node.input[:] = map(numbered, node.input)
        node.output[:] = map(numbered, node.output)
    file.write_bytes(model.SerializeToString())
    return model


@pytest.mark.parametrize("tell", [by_names, by_metadata])
def test_a_fault_in_a_graph_of_another_exporter_is_found_where_it_is(
    tell: Callable[[onnx.NodeProto, str | None], None], llama: Path, tmp_path: Path
) -> None:
    model = third_party_graph(llama, tmp_path / "model.onnx", tell)
    right = explain(plan_taps(llama, third_party_files(tmp_path, Kind.DECODER)), CASE, progress=Silent())
    assert right.first is None
    assert len({point.layer for point in right.points} - {None}) == 3
    module = "model.layers.1.post_attention_layernorm"
    value = module_values(model)[module]
    norm = next(node for node in model.graph.node if value in node.output)
    next(entry for entry in norm.attribute if entry.name == "epsilon").f = 0.5
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    report = compare_third_party(tmp_path / "model.onnx", llama, ValidateOptions(explain=True))
    assert not report.holds
    assert report.explanation is not None
    assert report.explanation.first is not None
    assert report.explanation.first.module == module
    assert report.explanation.operators == ("RMSNormalization", "Add")
    result = CliRunner().invoke(
        app, ["validate", "--onnx", str(tmp_path), "--reference", str(llama), "--explain", "--json"]
    )
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["parity"]["explanation"]["first"]["layer"] == 1


def test_a_graph_that_tells_of_no_module_is_told_by_what_it_has(llama: Path, tmp_path: Path) -> None:
    third_party_graph(llama, tmp_path / "model.onnx", by_nothing)
    result = CliRunner().invoke(app, ["validate", "--onnx", str(tmp_path), "--reference", str(llama), "--explain"])
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "its nodes have names such as node_" in text
    assert "the model's modules are such as model.embed_tokens, model.layers.0.self_attn.q_proj" in text
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        node.name = f"/decoder/{node.op_type}"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"its nodes name decoder"):
        plan_taps(llama, [tmp_path / "model.onnx"])


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("/model/layers.1/attn/o_proj/MatMul", "model.layers.1.self_attn.o_proj"),
        ("/model/layers.3/final_norm_layernorm/SkipLayerNorm", "model.norm"),
        ("/lm_head/MatMul", "lm_head"),
        ("/transformer/h.0/attn/c_attn/Gemm", "transformer.h.0.self_attn.c_attn"),
        ("Add_17", None),
    ],
)
def test_names_of_nodes_tell_modules(name: str, modules: str | None) -> None:
    node = onnx.helper.make_node("Add", ["a", "a"], ["b"], name=name)
    value = onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], [value]))
    assert (list(module_values(model))[-1:] or [None]) == [modules]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Scoped], set[str]]:
    """Nodes that take values made before them, within modules three deep."""
    paths = st.lists(st.sampled_from("ab"), max_size=3).map(".".join)
    nodes: list[Scoped] = []
    for number in range(draw(st.integers(1, 12))):
        before = [name for node in nodes for name in node.outputs] or ["input"]
        inputs = draw(st.lists(st.sampled_from(before), min_size=1, max_size=2))
        outputs = tuple(f"value_{number}_{part}" for part in range(draw(st.integers(1, 2))))
        nodes.append(Scoped(tuple(enclosing(draw(paths))), tuple(inputs), outputs))
    return nodes, set(draw(st.lists(st.sampled_from([name for node in nodes for name in node.outputs]))))


@given(graphs())
def test_what_a_module_returns_is_the_last_that_is_made_within_and_used_outside(
    graph: tuple[list[Scoped], set[str]],
) -> None:
    nodes, results = graph
    returned = returned_values(nodes, results)

    def leaves(name: str, module: str) -> bool:
        return name in results or any(name in node.inputs and module not in node.modules for node in nodes)

    for module in {module for node in nodes for module in node.modules}:
        last = [node for node in nodes if module in node.modules and any(leaves(name, module) for name in node.outputs)]
        expected = next(name for name in last[-1].outputs if leaves(name, module)) if last else None
        assert returned.get(module) == expected


@pytest.mark.parametrize("model_type", ["llama", "bert", "t5"])
def test_names_of_modules_are_those_of_the_model(model_type: str, tmp_path: Path) -> None:
    assert model_type in supported_model_types()
    folder = save_tiny_model(tmp_path, model_type)
    assert module_names(folder) == [name for name, _ in load_model(folder).named_modules() if name]


def test_of_several_tensors_that_are_alike_none_is_taken_for_the_result() -> None:
    from amp_export.parity.explain.values import _returned

    one, other = torch.ones(2, 3), torch.ones(2, 4)
    assert _returned(one) is one
    assert _returned((one, None, other)) is one
    assert _returned((one, one.clone())) is None
    assert _returned(SimpleNamespace(last_hidden_state=one)) is None
    assert _returned(torch.ones(2, dtype=torch.int64)) is None
