from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.errors import OutputError
from amp_export.options import Dtype, Format, Via
from amp_export.outputs.manifest import FileRecord, Manifest, SourceRecord, package_versions
from amp_export.outputs.names import MANIFEST, PARTIAL
from amp_export.reporting.report import JSON_NAME, Report

MANIFEST_OF_A_MODEL = Manifest(source=SourceRecord("demo", "/models/demo", "ab"), config_before={"hidden_size": 4})


def test_a_manifest_survives_a_file_and_hashes_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"abc")
    saved = (
        MANIFEST_OF_A_MODEL.with_export(Format.ONNX, Dtype.FLOAT16, Via.DIRECT)
        .with_verdict("parity", {"holds": True})
        .save(tmp_path)
    )
    assert Manifest.load(tmp_path) == saved
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc", FIPS 180-2, appendix B.1
    assert saved.files == {"onnx/model.onnx": FileRecord(digest, 3)}
    assert saved.packages == package_versions()
    assert "torch" in saved.packages


def newer(content: dict[str, object]) -> None:
    content["schema"] = 99


DAMAGES: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "newer": (newer, "schema 99"),
    "no schema": (lambda content: content.pop("schema"), "expected an object with a number schema, but schema is None"),
    "unknown key": (lambda content: content.update(surprise=1), r"surprise is not known\. Expected keys: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_manifests_and_reports_that_cannot_be_read_say_why(damage: str, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    MANIFEST_OF_A_MODEL.save(tmp_path)
    (tmp_path / JSON_NAME).write_text(Report(model="demo").to_json())
    for name, load in ((MANIFEST, Manifest.load), (JSON_NAME, Report.load)):
        content = json.loads((tmp_path / name).read_text())
        change(content)
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(OutputError, match=rf"{name}.* {message}"):
            load(tmp_path)
        (tmp_path / name).write_text("{")
        with pytest.raises(OutputError, match=f"{name} is not valid JSON: "):
            load(tmp_path)


def test_what_is_absent_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not an output of amp-export"):
        Manifest.load(tmp_path)
    with pytest.raises(OutputError, match=r"No such directory: .*\nCreate it first: amp-export --to onnx"):
        Manifest.load(tmp_path / "out")
    with pytest.raises(OutputError, match="nothing has been measured"):
        Report.load(tmp_path)


def output_of(folder: Path) -> Manifest:
    """Write an output with two parts, and files beside them."""
    for name in ("onnx/model.onnx", "onnx/model.onnx_data", "pruned/model.safetensors", "plan.json", "report.json"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(name.encode())
    return MANIFEST_OF_A_MODEL.save(folder)


@given(data=st.data())
def test_a_changed_byte_is_found_and_ends_the_verdicts_on_its_part_only(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("output")
    saved = output_of(folder)
    saved.verify(folder)
    name = data.draw(st.sampled_from(sorted(saved.files)))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    with pytest.raises(OutputError, match=rf"{name} is not the file that .*amp_export\.json describes"):
        saved.verify(folder)
    anew = saved.with_hashes(folder)
    for part in ("onnx", "pruned"):
        assert anew.stands(saved.judged(part)) is not name.startswith(f"{part}/")


@pytest.mark.parametrize(("name", "is_needed"), [("onnx/model.onnx_data", True), ("plan.json", False)])
def test_a_file_that_is_missing_is_named_if_a_verdict_is_about_it(name: str, is_needed: bool, tmp_path: Path) -> None:
    saved = output_of(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(OutputError, match=f"{name} is missing") if is_needed else contextlib.nullcontext():
        saved.verify(tmp_path)


def test_files_of_a_folder_that_was_replaced_are_gone_from_the_manifest(tmp_path: Path) -> None:
    saved = output_of(tmp_path)
    (tmp_path / "onnx/model.onnx_data").unlink()
    (tmp_path / "onnx2").mkdir()
    (tmp_path / "onnx2/other").write_text("")
    (tmp_path / f".report.json{PARTIAL}").write_text("half")
    (tmp_path / f".onnx{PARTIAL}x").mkdir()
    (tmp_path / f".onnx{PARTIAL}x/half").write_text("half")
    anew = saved.with_hashes(tmp_path, ["onnx"])
    assert set(anew.files) == set(saved.files) - {"onnx/model.onnx_data"}
    assert set(saved.with_hashes(tmp_path).files) == set(anew.files) | {"onnx2/other"}, "nothing that is half written"


def test_a_manifest_within_a_folder_is_a_file_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / MANIFEST).write_text("{}")
    assert f"onnx/{MANIFEST}" in MANIFEST_OF_A_MODEL.save(tmp_path).files


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "onnx/../../secret"])
def test_files_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    manifest = Manifest(source=SourceRecord("m", "/m", "0"), config_before={}, files={name: FileRecord("0", 1)})
    manifest.write(tmp_path)
    with pytest.raises(OutputError, match=r"which is outside of .*\nDo not use"):
        Manifest.load(tmp_path)
