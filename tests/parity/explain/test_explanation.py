"""Faults planted into graphs: each is caught, and the first value that differs is where it was planted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.onnx import export
from amp_export.options import Dtype, Opset
from amp_export.outputs.manifest import Manifest
from amp_export.parity.case_files import read_cases
from amp_export.parity.comparison import compare
from amp_export.parity.explain.explanation import Explanation, explain, plan_taps
from amp_export.progress import Silent
from tests.support.faults import CASE
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

LAYER = 1
Plant = Callable[[onnx.ModelProto, Path], None]


def find(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def insert_before(model: onnx.ModelProto, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
    place = list(model.graph.node).index(node)
    nodes = [*model.graph.node[:place], *new, *model.graph.node[place:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def change_weight(model: onnx.ModelProto, folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    data = np.memmap(
        folder / place["location"], dtype, mode="r+", offset=int(place["offset"]), shape=tuple(tensor.dims)
    )
    data[:] = change(np.array(data))
    data.flush()


def plant_epsilon(model: onnx.ModelProto, folder: Path) -> None:
    node = find(model, f"model.layers.{LAYER}.post_attention_layernorm")
    next(entry for entry in node.attribute if entry.name == "epsilon").f = 0.5


def plant_swapped_heads(model: onnx.ModelProto, folder: Path) -> None:
    def swap(weight: np.ndarray) -> np.ndarray:
        return np.concatenate([weight[:, 8:16], weight[:, :8], weight[:, 16:]], axis=1)

    change_weight(model, folder, f"model.layers.{LAYER}.self_attn.q_proj.weight", swap)


def plant_transposed_weight(model: onnx.ModelProto, folder: Path) -> None:
    change_weight(model, folder, f"model.layers.{LAYER}.self_attn.o_proj.weight", np.transpose)


def plant_rotary_offset(model: onnx.ModelProto, folder: Path) -> None:
    # of queries alone: where all turn by one more, their angles to one another stay
    node = find(model, f"model.layers.{LAYER}.self_attn.q_proj.heads.rotated")
    model.graph.initializer.append(numpy_helper.from_array(np.array(1), "one"))
    node.input[3] = "late"
    insert_before(model, node, helper.make_node("Add", ["position_ids", "one"], ["late"], name="late"))


def plant_leaking_mask(model: onnx.ModelProto, folder: Path) -> None:
    node = find(model, f"model.layers.{LAYER}.attention")
    leak = helper.make_node("Not", ["mask.padding"], ["leak"], name="leak")
    wide = helper.make_node("Unsqueeze", ["leak", "list_1_2"], ["leak.wide"], name="leak.wide")
    joined = helper.make_node("Or", [node.input[3], "leak.wide"], ["mask.leaking"], name="mask.leaking")
    node.input[3] = "mask.leaking"
    insert_before(model, node, leak, wide, joined)


FAULTS: dict[str, tuple[Plant, str, str]] = {
    "wrong epsilon": (plant_epsilon, "post_attention_layernorm", "RMSNormalization"),
    "two swapped heads": (plant_swapped_heads, "self_attn.q_proj", "MatMul"),
    "transposed weight": (plant_transposed_weight, "self_attn.o_proj", "MatMul"),
    "rotary offset by one": (plant_rotary_offset, "attention.query", "RotaryEmbedding"),
    "mask that leaks": (plant_leaking_mask, "attention.mask", "Or"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # as many dimensions in all heads as in the hidden states, so that an output projection can be transposed
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "checkpoint", "llama", head_dim=8)
    save_tiny_tokenizer(folder)
    return folder


def export_with(checkpoint: Path, folder: Path, plant: Plant | None) -> Path:
    export(open_checkpoint(checkpoint), folder)
    if plant is not None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        plant(model, folder)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def look_within(checkpoint: Path, folder: Path) -> Explanation:
    return explain(plan_taps(checkpoint, [folder / "model.onnx"]), CASE, progress=Silent())


@pytest.mark.parametrize(("plant", "place", "operator"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_caught_where_it_is(
    checkpoint: Path, tmp_path: Path, plant: Plant, place: str, operator: str
) -> None:
    folder = export_with(checkpoint, tmp_path / "onnx", plant)
    assert not compare(checkpoint, folder, progress=Silent(), cases=[CASE]).holds
    found = look_within(checkpoint, folder)
    assert found.first is not None
    assert found.first.module == f"model.layers.{LAYER}.{place}"
    assert found.first.layer == LAYER
    assert found.first.operator == operator
    assert operator in found.operators
    # nothing of the layers before is blamed
    assert all(point.holds for point in found.points if point.layer is not None and point.layer < LAYER)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("gemma2", {"final_logit_softcapping": 20.0}),
        ("granite", {"logits_scaling": 2.5}),
        ("cohere", {"logit_scale": 0.25}),
    ],
)
def test_a_fault_after_the_head_is_found_in_the_logits(family: str, change: dict[str, float], tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "right", family)
    save_tiny_tokenizer(checkpoint)
    other = shutil.copytree(checkpoint, tmp_path / "wrong")
    (other / "config.json").write_text(json.dumps({**json.loads((other / "config.json").read_text()), **change}))
    for right, folder in ((True, checkpoint), (False, other)):
        export(open_checkpoint(folder), tmp_path / f"onnx-{right}")
        found = look_within(checkpoint, tmp_path / f"onnx-{right}")
        assert found.points[-1].module == "logits"
        assert (found.first is None) == right
    assert found.first is not None
    assert (found.first.module, found.first.layer) == ("logits", None)


def plant_overflow(model: onnx.ModelProto, folder: Path) -> None:
    """The norm as float16 would compute it: ONNX Runtime's processor takes float32 for what it has no kernel for."""
    name = f"model.layers.{LAYER}.input_layernorm"
    node = find(model, name)
    value, weight = node.input
    for label, constant in (("last", np.array([-1])), ("most", np.float32(65504)), ("beyond", np.float32(np.inf))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), label))
    parts = {
        "wide": ("Cast", [value], {"to": onnx.TensorProto.FLOAT}),
        "squares": ("Mul", [f"{name}.wide", f"{name}.wide"], {}),
        "too_large": ("Greater", [f"{name}.squares", "most"], {}),
        "held": ("Where", [f"{name}.too_large", "beyond", f"{name}.squares"], {}),
        "mean": ("ReduceMean", [f"{name}.held", "last"], {}),
        "root": ("Sqrt", [f"{name}.mean"], {}),
        "normed": ("Div", [f"{name}.wide", f"{name}.root"], {}),
        "narrow": ("Cast", [f"{name}.normed"], {"to": onnx.TensorProto.FLOAT16}),
    }
    made = [
        helper.make_node(operator, inputs, [f"{name}.{part}"], name=f"{name}.{part}", **attributes)
        for part, (operator, inputs, attributes) in parts.items()
    ]
    node.CopyFrom(helper.make_node("Mul", [f"{name}.narrow", weight], [name], name=name))
    insert_before(model, node, *made)


def test_a_float16_norm_that_overflows_is_caught(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama")
    save_tiny_tokenizer(checkpoint)
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    # squares of the embeddings are beyond float16, and the embeddings themselves are not
    weights["model.embed_tokens.weight"] *= 2000
    # what the layer adds is as large, so that it shows in the logits
    weights[f"model.layers.{LAYER}.self_attn.o_proj.weight"] *= 2000
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    for name, plant in (("right", None), ("wrong", plant_overflow)):
        export(open_checkpoint(checkpoint), tmp_path / name, dtype=Dtype.FLOAT16)
        if plant is not None:
            model = onnx.load(tmp_path / name / "model.onnx", load_external_data=False)
            plant(model, tmp_path / name)
            (tmp_path / name / "model.onnx").write_bytes(model.SerializeToString())
    assert compare(checkpoint, tmp_path / "right", progress=Silent(), cases=[CASE]).holds
    assert not compare(checkpoint, tmp_path / "wrong", progress=Silent(), cases=[CASE]).holds
    assert look_within(checkpoint, tmp_path / "right").first is None
    found = look_within(checkpoint, tmp_path / "wrong")
    assert found.first is not None
    assert found.first.module == f"model.layers.{LAYER}.input_layernorm"
    assert {"Mul", "ReduceMean", "Sqrt", "Div"} <= set(found.operators)


@pytest.mark.parametrize("opset", Opset)
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "qwen2", "gpt_neox", "phi3", "olmo2"])
def test_a_graph_that_is_right_has_nothing_to_explain(tmp_path: Path, model_type: str, opset: Opset) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type)
    save_tiny_tokenizer(folder)
    export(open_checkpoint(folder), tmp_path / "onnx", opset=opset)
    found = look_within(folder, tmp_path / "onnx")
    assert found.first is None, found.first
    assert len({point.layer for point in found.points} - {None}) == 3
    parts = {point.module.rsplit(".attention.", 1)[-1] for point in found.points if ".attention." in point.module}
    # eager attention, which Gemma 2 has, is not looked into
    assert parts & {"query", "key", "value", "mask"} in ({"query", "key", "value", "mask"}, set())
    assert model_type == "gemma2" or "mask" in parts


def test_the_command_names_the_place_and_draws_how_the_error_grows(checkpoint: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from amp_export.api.export import export as export_whole
    from amp_export.cli import app

    output = tmp_path / "out"
    export_whole(checkpoint, output=output)
    cases = tmp_path / "cases.json"
    cases.write_text('[{"name": "two texts", "prompt_lengths": [4, 9], "padding": "right", "decode_steps": 2}]')
    arguments = ["validate", str(output), "--explain", "--cases", str(cases)]
    right = CliRunner().invoke(app, arguments)
    assert right.exit_code == 0, right.output
    assert "compared, all within tolerance" in right.output
    assert "#" not in right.output
    model = onnx.load(output / "onnx" / "model.onnx", load_external_data=False)
    plant_swapped_heads(model, output / "onnx")
    Manifest.load(output).save(output)
    wrong = CliRunner().invoke(app, arguments)
    assert wrong.exit_code == 1
    assert (
        f"the first that differs is model.layers.{LAYER}.self_attn.q_proj (layer {LAYER}), computed by MatMul"
        in wrong.output
    )
    lines = [line for line in wrong.output.splitlines() if "##" in line]
    assert len(lines) >= 2, "it grows from layer to layer"
    report = json.loads((output / "report.json").read_text())
    assert report["parity"]["explanation"]["first"]["layer"] == LAYER


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cases.json is not valid JSON"),
        ("[]", "at least one"),
        ('[{"name": "x"}]', "cases.json: [0].prompt_lengths is missing.\nFor example: [{"),
        ('[{"name": "x", "prompt_lengths": [0]}]', "[0].prompt_lengths[0]: expected an integer >= 1, found 0."),
        (
            '[{"name": "x", "prompt_lengths": [3], "padding": "up"}]',
            '[0].padding: expected "left" or "right", found "up".',
        ),
        (
            '[{"name": "x", "prompt_lengths": [3], "steps": 2}]',
            "[0].steps is not known. Expected keys: name, prompt_lengths, decode_steps, padding, chunks.",
        ),
        (
            '[{"name": "x", "prompt_lengths": [3], "decode_steps": -1}]',
            "[0].decode_steps: expected an integer >= 0, found -1.",
        ),
    ],
)
def test_a_file_that_holds_no_cases_is_told_by_its_entry(
    checkpoint: Path, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "cases.json"
    file.write_text(content)
    with pytest.raises(RequestError, match=re.escape(said)):
        read_cases(file, open_checkpoint(checkpoint).config)
