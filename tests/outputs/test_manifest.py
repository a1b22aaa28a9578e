from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amp_export.errors import OutputError
from amp_export.options import Dtype, Format, Via
from amp_export.outputs.manifest import FileRecord, Manifest, SourceRecord, package_versions
from amp_export.outputs.names import MANIFEST
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
