from __future__ import annotations

import ast
import hashlib
import json
import sys
import tarfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.devices.archives import read_first, write_archive
from amp_export.devices.bundle import bundle, choose_opset, find_bundle, is_current
from amp_export.devices.references import reference_cases
from amp_export.errors import OutputError, RequestError, UnsupportedModelError
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx import describe_graph
from amp_export.options import Dtype, Opset, TargetName
from amp_export.outputs.manifest import Manifest
from amp_export.verb_options import BundleOptions
from tests.support.shared import Bundled

SCRIPTS = sorted(
    file.name for file in files("amp_export.exporters.tensorrt.device").iterdir() if file.name.endswith(".py")
)


def test_everything_in_a_bundle_is_named_with_its_hash(bundled: Bundled, tmp_path: Path) -> None:
    folder = bundled.unpack(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == {*manifest["files"], "manifest.json"}
    for name, facts in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (facts["sha256"], facts["bytes"])
    assert {"run.sh", "build.sh", "README.md", "device/verify.py", "device/measure.py"} <= found
    for subject in ("dense", "pruned"):
        assert {f"{subject}/model.onnx", f"{subject}/model.onnx_data", f"{subject}/references.npz"} <= found
    assert len((folder / "README.md").read_text().splitlines()) <= 25
    assert (folder / "run.sh").stat().st_mode & 0o111


def test_manifest_says_what_the_device_needs(bundled: Bundled) -> None:
    found = find_bundle(bundled.file)
    manifest = found.manifest
    assert manifest["limits"] == {"max_batch": 3, "max_context": 128}
    assert manifest["target"]["name"] == "cpu"
    assert manifest["measure"]["prompt_tokens"] + manifest["measure"]["decode_tokens"] == 128
    for graph in manifest["graphs"].values():
        assert (graph["opset"], graph["precision"]) == (23, "float32")
        prefill, decode = graph["profiles"]
        assert prefill["shapes"]["input_ids"] == [[1, 1], [1, 128], [3, 128]]
        assert decode["shapes"]["past_key_values.0.key"] == [[1, 2, 1, 8], [1, 2, 127, 8], [3, 2, 127, 8]]
    # nothing of this machine, so that the same graphs give the same bundle everywhere
    assert str(bundled.output) not in json.dumps(manifest)
    assert manifest["output"]["rewrite"]["kind"] == "same class"


def test_references_are_inputs_and_the_logits_after_each_call(bundled: Bundled, tmp_path: Path) -> None:
    folder = bundled.unpack(tmp_path)
    references = json.loads((folder / "manifest.json").read_text())["references"]
    for subject, reference in references.items():
        assert 0 < reference["mean_tolerance"] < reference["tolerance"] < 1e-3
        assert [case["calls"] for case in reference["cases"]] == [1, 1, 5, 3]
        with np.load(folder / subject / "references.npz") as arrays:
            assert arrays["1.0.input_ids"].shape == (1, 128)
            assert arrays["2.4.attention_mask"].shape == (1, 12)
            assert arrays["3.0.attention_mask"].sum(axis=1).tolist() == [17, 11, 5]
            assert arrays["3.2.logits"].shape == (3, 101)
            assert arrays["3.2.logits"].dtype == np.float32


def test_same_input_gives_the_same_bytes(bundled: Bundled, tmp_path: Path) -> None:
    result = bundle(bundled.output, BundleOptions(max_batch=3, file=tmp_path / "again.tar.gz"))
    assert result.file.read_bytes() == bundled.file.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["again.tar.gz"]
    assert is_current(result, bundled.output, None)
    assert not is_current(result, bundled.output, against=bundled.output)


def test_another_export_takes_the_place_of_the_dense_model(bundled: Bundled, tmp_path: Path) -> None:
    result = bundle(bundled.output, BundleOptions(against=bundled.output, max_context=16, file=tmp_path / "b.tar.gz"))
    hashes = {name: facts["sha256"] for name, facts in result.manifest["files"].items()}
    assert hashes["dense/model.onnx_data"] == hashes["pruned/model.onnx_data"]
    assert result.manifest["measure"]["decode_tokens"] == 8
    assert is_current(result, bundled.output, against=bundled.output)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_batch": 0}, "leave no room for any input"),
        ({"max_context": 129}, "context is 128 tokens long"),
        ({"max_context": 11}, "11 tokens is too short to check parity"),
    ],
)
def test_limits_that_do_not_suit_are_refused(limits: dict[str, int], message: str, bundled: Bundled) -> None:
    with pytest.raises(RequestError, match=message):
        bundle(bundled.output, BundleOptions(against=bundled.output, **limits), overwrite=True)


def test_cases_fit_into_the_limits() -> None:
    assert [case.prompt_lengths for case in reference_cases(Limits(1, 2048))] == [(17,), (128,), (8,)]
    assert reference_cases(Limits(2, 2048))[-1].prompt_lengths == (17, 11)
    assert reference_cases(Limits(8, 2048))[-1].prompt_lengths == (17, 11, 5)
    assert [case.prompt_lengths for case in reference_cases(Limits(1, 16))] == [(8,)]


def test_an_earlier_bundle_needs_overwrite_and_what_is_none_is_never_touched(bundled: Bundled, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        bundle(bundled.output)
    mine = tmp_path / "mine.tar.gz"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="is damaged or not a bundle"):
        bundle(bundled.output, BundleOptions(file=mine), overwrite=True)
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(mine, "mine")
    with pytest.raises(OutputError, match=r"its first file is not manifest\.json"):
        bundle(bundled.output, BundleOptions(file=tmp_path / "other.tar.gz"), overwrite=True)
    assert mine.read_text() == "mine"
    with pytest.raises(OutputError, match="is a directory"):
        bundle(bundled.output, BundleOptions(file=tmp_path))


def test_a_bundle_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    newer = json.dumps({"schema": 2, "files": {}}).encode()
    write_archive(tmp_path / "b.tar.gz", "top", {"manifest.json": newer}, first="manifest.json")
    with pytest.raises(OutputError, match=r"schema 2, this version knows up to 1\.\nUpdate"):
        find_bundle(tmp_path / "b.tar.gz")


def test_a_cut_archive_is_told(bundled: Bundled, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(bundled.file.read_bytes()[:500])
    with pytest.raises(OutputError, match="is damaged or not a bundle"):
        read_first(cut, "manifest.json")


def test_an_encoder_is_refused(bundled: Bundled, tmp_path: Path) -> None:
    output = bundled.copy(tmp_path / "out")
    tokens = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch_size", "sequence_length"])
    states = helper.make_tensor_value_info("last_hidden_state", onnx.TensorProto.FLOAT, ["batch_size", 32])
    graph = helper.make_graph([], "encoder", [tokens], [states])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), output / "onnx/model.onnx")
    Manifest.load(output).save(output)
    with pytest.raises(UnsupportedModelError, match="does not hold a decoder; only decoders can be bundled"):
        bundle(output, BundleOptions(file=tmp_path / "b.tar.gz"))


def last_logits(file: Path, folder: Path) -> dict[str, int | str]:
    """Returns the axis of tokens of the logits of each graph."""
    folder.mkdir()
    found = {}
    with tarfile.open(file) as archive:
        for name in archive.getnames():
            if name.endswith("/model.onnx") and (member := archive.extractfile(name)) is not None:
                (folder / "model.onnx").write_bytes(member.read())
                found[name.split("/")[-2]] = describe_graph(folder / "model.onnx").outputs["logits"].axes[1]
    return found


def test_the_target_limits_the_build_and_chooses_the_operators(bundled: Bundled, tmp_path: Path) -> None:
    before = (bundled.output / "onnx" / "model.onnx").read_bytes()
    options = BundleOptions(target=TargetName.ORIN_NANO, against=bundled.output, file=tmp_path / "b.tar.gz")
    result = bundle(bundled.output, options)
    assert result.manifest["target"] == {"name": "orin-nano", "workspace_bytes": 2 << 30}
    # the graph there is of opset 23, which JetPack 6 does not parse
    assert {graph["opset"] for graph in result.manifest["graphs"].values()} == {20}
    assert (bundled.output / "onnx" / "model.onnx").read_bytes() == before
    # nor can its engines be told which logits are needed
    assert last_logits(result.file, tmp_path / "nano") == {"dense": 1, "pruned": 1}
    assert last_logits(bundled.file, tmp_path / "cpu") == {"dense": "kept_length", "pruned": "kept_length"}
    asked = bundle(bundled.output, replace(options, opset=Opset.OPSET_23), overwrite=True)
    assert {graph["opset"] for graph in asked.manifest["graphs"].values()} == {23}


@pytest.mark.parametrize(
    ("target", "dtype", "opset"),
    [
        (TargetName.CPU, Dtype.FLOAT32, Opset.OPSET_23),
        (TargetName.A100, Dtype.FLOAT16, Opset.OPSET_23),
        (TargetName.A100, Dtype.FLOAT32, Opset.OPSET_20),
        (TargetName.ORIN_AGX, Dtype.FLOAT16, Opset.OPSET_20),
    ],
)
def test_the_operators_are_those_that_a_device_takes(
    bundled: Bundled, target: TargetName, dtype: Dtype, opset: Opset
) -> None:
    config = open_checkpoint(bundled.output / "pruned").config
    assert choose_opset(bundled.output, target, config, dtype) is opset


def test_the_command_says_what_to_do_next_and_records_the_file(bundled: Bundled) -> None:
    assert "unpacked 0 MB." in bundled.stderr
    assert "bash run.sh" in bundled.stderr
    manifest = json.loads((bundled.output / "amp_export.json").read_text())
    assert manifest["files"]["bundle-cpu.tar.gz"]["bytes"] == bundled.file.stat().st_size


def test_the_command_refuses_what_is_no_output(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bundle", str(tmp_path)])
    assert result.exit_code == 2
    assert "not an output of amp-export" in result.stderr
    result = CliRunner().invoke(app, ["bundle", str(tmp_path), "--target", "toaster"])
    assert result.exit_code == 2
    assert "cpu" in result.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_need_nothing_but_python_and_numpy(name: str) -> None:
    source = files("amp_export.exporters.tensorrt.device").joinpath(name).read_text()
    # the grammar of the oldest Python that they run on
    tree = ast.parse(source, feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [] if node.level == 1 else [node.module or "."]
        else:
            continue
        for module in modules:
            assert module.partition(".")[0] in sys.stdlib_module_names | {"numpy"}, module


def test_an_archive_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")

    def fail(_done: int, _total: int) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_archive(tmp_path / "b.tar.gz", "top", {"a": source}, first="a", advance=fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]
