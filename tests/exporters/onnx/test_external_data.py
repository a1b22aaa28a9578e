"""A graph reads weights below its own folder only, whatever it calls them and whoever opens it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import ModelError
from amp_export.exporters.onnx import export, run
from amp_export.exporters.onnx.external_data import check_external_data, data_files
from amp_export.exporters.onnx.introspection.taps import tapped_sessions
from amp_export.outputs.manifest import Manifest
from tests.support.tiny_models import save_tiny_model

WEIGHTS = "model.onnx_data"


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def move_weights(graph: Path, location: str) -> None:
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    graph.write_bytes(model.SerializeToString())


def to_parent(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "secret")
    move_weights(folder / "model.onnx", "../secret")


def to_absolute(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "secret")
    move_weights(folder / "model.onnx", str((folder.parent / "secret").resolve()))


def to_symlink(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "secret")
    (folder / WEIGHTS).symlink_to("../secret")


def through_linked_folder(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "secret")
    (folder / "sub").symlink_to("..")
    move_weights(folder / "model.onnx", "sub/secret")


def to_hard_link(folder: Path) -> None:
    os.link(folder / WEIGHTS, folder.parent / "secret")


@pytest.fixture
def graph(tiny_llama: Path, tmp_path: Path) -> Path:
    return export(open_checkpoint(tiny_llama), tmp_path / "third-party" / "onnx").folder


@pytest.mark.parametrize("explain", [[], ["--explain"]])
@pytest.mark.parametrize(
    ("move", "said"),
    [
        (to_parent, "refers to weights in '../secret', which is outside its folder"),
        (to_absolute, "secret', which is outside its folder"),
        (to_symlink, f"refers to weights in '{WEIGHTS}', which is outside its folder"),
        (through_linked_folder, "refers to weights in 'sub/secret', which is outside its folder"),
        (to_hard_link, f"refers to weights in '{WEIGHTS}', which is a hard link"),
    ],
)
def test_a_third_party_graph_reads_nothing_outside_its_folder(
    move: Callable[[Path], None], said: str, explain: list[str], graph: Path, tiny_llama: Path
) -> None:
    move(graph)
    command = ["validate", "--onnx", str(graph / "model.onnx"), "--reference", str(tiny_llama), *explain]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert "Do not run a graph that you do not trust" in " ".join(result.stderr.split())


@pytest.mark.parametrize("move", [to_parent, to_absolute, to_symlink, through_linked_folder])
def test_taps_are_not_a_way_around(move: Callable[[Path], None], graph: Path, tmp_path: Path) -> None:
    move(graph)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(ModelError, match="outside its folder"):
        tapped_sessions([graph / "model.onnx"], {"model.onnx": ()}, tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_output_of_our_own_may_share_its_files(tiny_llama: Path, tmp_path: Path) -> None:
    """As one does while a command extends it, or in a backup made of links."""
    CliRunner().invoke(app, ["export", "--model", str(tiny_llama), "--output", str(tmp_path / "out")])
    os.link(tmp_path / "out/onnx" / WEIGHTS, tmp_path / "backup")
    Manifest.load(tmp_path / "out").verify(tmp_path / "out")
    model = onnx.load(tmp_path / "out/onnx/model.onnx", load_external_data=False)
    check_external_data(tmp_path / "out/onnx/model.onnx", model)


def test_a_link_within_the_folder_is_taken(graph: Path) -> None:
    (graph / "weights").mkdir()
    shutil.move(graph / WEIGHTS, graph / "weights" / "real")
    (graph / WEIGHTS).symlink_to("weights/real")
    check_external_data(graph / "model.onnx", onnx.load(graph / "model.onnx", load_external_data=False), linked=False)


def test_no_place_of_a_tensor_is_overlooked(tmp_path: Path) -> None:
    branch = helper.make_graph([], "branch", [], [], [external("../in_subgraph")])
    sparse = onnx.SparseTensorProto(values=external("../in_values"), indices=external("../in_indices"), dims=[1])
    nodes = [
        helper.make_node("Constant", [], ["a"], value=external("../in_constant")),
        helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["d"], sparse_value=sparse),
    ]
    body = [helper.make_node("Constant", [], ["e"], value=external("../in_function"))]
    function = helper.make_function("x", "f", [], ["e"], body, [helper.make_opsetid("", 20)])
    graph = helper.make_graph(nodes, "g", [], [], [external("inside")])
    model = helper.make_model(graph, functions=[function])
    places = {"inside", *(f"../in_{place}" for place in ("subgraph", "values", "indices", "constant", "function"))}
    assert set(data_files(model)) == places


@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "a", "b.data", "\\", "C:", "/", "\\\\host\\share"]), min_size=1, max_size=5
    )
)
def test_what_leaves_the_folder_in_any_spelling_is_refused(parts: list[str]) -> None:
    location = "/".join(parts)
    file = Path("/nowhere/graph/model.onnx")
    model = helper.make_model(helper.make_graph([], "g", [], [], [external(location)]))
    leaves = not (file.parent / location).resolve().is_relative_to(file.parent)
    try:
        check_external_data(file, model, linked=False)
    except ModelError:
        return
    assert not leaves
    assert ".." not in parts


def test_weights_of_an_older_export_are_read(tmp_path: Path) -> None:
    folder = export(open_checkpoint(save_tiny_model(tmp_path / "checkpoint", "llama")), tmp_path / "onnx").folder
    row = np.array([[1, 2, 3]])
    called = (row, np.ones_like(row), np.arange(3)[None], None)
    expected, _ = run(folder, threads=1).forward(*called)
    move_weights(folder / "model.onnx", "model.onnx.data")
    (folder / WEIGHTS).rename(folder / "model.onnx.data")
    found, _ = run(folder, threads=1).forward(*called)
    np.testing.assert_array_equal(found, expected)
