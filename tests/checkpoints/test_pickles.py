"""Pickled weights: converted if the user allows it, without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from amp_export.checkpoints.loading import load_tokenizer
from amp_export.checkpoints.older_versions import add_old_names
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.checkpoints.sources import resolve_model
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.cli import app
from amp_export.errors import ModelError
from tests.support.bad_checkpoints import as_pickle, set_fields, write_json


class Malicious:
    """What it reduces to is called when it is unpickled in full."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_pickles_are_converted_once_with_all_that_goes_along(folder: Path, tmp_path: Path) -> None:
    expected = load_file(folder / SINGLE)
    as_pickle(folder)
    torch.save({"not": "weights"}, folder / "training_args.bin")
    said: list[str] = []
    found = resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True, on_status=said.append).path
    assert any("Converting" in line for line in said)
    assert open_checkpoint(found).raw_config == add_old_names(read_config(folder)[0])
    assert load_file(found / SINGLE).keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in load_file(found / SINGLE).items())
    assert {file.name for file in found.iterdir()} >= {"tokenizer.json", "tokenizer_config.json", "config.json"}
    assert load_tokenizer(found)("abc").input_ids == load_tokenizer(folder)("abc").input_ids
    said.clear()
    assert resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True, on_status=said.append).path == found
    assert not any("Converting" in line for line in said)
    set_fields(rms_norm_eps=1e-3)(folder)
    assert resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True).path != found


def test_pickles_in_shards_and_of_bfloat16_are_read(folder: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / SINGLE).items()}
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    write_json("pytorch_model.bin.index.json", {"weight_map": weight_map})(folder)
    (folder / SINGLE).unlink()
    found = open_checkpoint(resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True).path)
    assert found.dtype == "bfloat16"
    assert found.tensors.keys() == tensors.keys()


def test_pickles_work_the_whole_way(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_EXPORT_CACHE", str(tmp_path / "cache"))
    as_pickle(folder)
    common = ["--model", str(folder), "--allow-pickle", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["prune", *common, "--ratio", "0.2", "--snap", "1"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["export", *common, "--overwrite"]).exit_code == 0


def test_a_malicious_pickle_runs_nothing(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    marker = tmp_path / "marker"
    for legacy in (False, True):
        content = {**tensors, "evil": Malicious(marker)}
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelError, match=r"more than tensors[\s\S]*No code in it was run"):
            resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True)
        assert not marker.exists()
        assert [path.suffix for path in (tmp_path / "cache" / "pickles").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut short"])
def test_a_damaged_pickle_says_so(content: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True)


def test_a_pickle_of_something_else_says_so(folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).unlink()
    for content, said in (
        ([torch.ones(1)], "a dict of weights is expected"),
        ({"model": {"weight": torch.ones(1)}}, "holds dict under 'model', but a weight is expected"),
    ):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=said):
            resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True)
