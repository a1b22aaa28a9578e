"""A source may be read-only, and an unreadable one is named as the source that it is."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner

from amp_export.checkpoints.companions import find_companions
from amp_export.checkpoints.gguf import convert_gguf
from amp_export.checkpoints.hashing import hash_finite_weights, hash_weights
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.pickles import hash_pickles
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint, read_config
from amp_export.checkpoints.source_files import copy_files
from amp_export.checkpoints.weight_files import SINGLE, read_headers
from amp_export.cli import app
from amp_export.errors import ModelError
from amp_export.exporters.onnx.genai import read_generation


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "checkpoint"))
    (copy / "pytorch_model.bin").touch()
    return copy


def permissions(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes files of one name unreadable, also for root, whom modes do not stop."""
    plain = Path.open

    def refuse(file: Path, *arguments: Any, **options: Any) -> IO[Any]:
        if file.name == name and file.parent.name == "checkpoint":
            raise PermissionError(13, "Permission denied", str(file))
        return plain(file, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)


@pytest.mark.parametrize("command", [["prune", "--ratio", "0.1", "--snap", "1"], ["export"]])
def test_nothing_in_the_output_has_the_mode_of_a_read_only_source(
    command: list[str], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain").touch()
    for file in folder.iterdir():
        file.chmod(0o444)
    result = CliRunner().invoke(app, [*command, "--model", str(folder), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    written = [file for file in (tmp_path / "out").rglob("*.json*") if file.is_file()]
    assert {"tokenizer_config.json", "generation_config.json"} <= {file.name for file in written}
    assert {permissions(file) for file in written} == {permissions(tmp_path / "plain")}


def test_the_copies_of_read_only_files_can_be_changed(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o444)
    copy_files(find_companions(folder), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert all(permissions(file) & stat.S_IWUSR for file in tmp_path.iterdir())


READERS: dict[str, tuple[str, Callable[[Path, Checkpoint], object]]] = {
    "config": ("config.json", lambda folder, _: read_config(folder)),
    "headers": (SINGLE, lambda folder, _: read_headers(folder)),
    "weights": (SINGLE, lambda _, checkpoint: checkpoint.read("model.norm.weight")),
    "hash": (SINGLE, lambda _, checkpoint: hash_weights(checkpoint)),
    "checked hash": (SINGLE, lambda _, checkpoint: hash_finite_weights(checkpoint)),
    "pickles": ("pytorch_model.bin", lambda folder, _: hash_pickles(folder)),
    "companions": ("tokenizer.json", lambda folder, _: copy_files(find_companions(folder), folder.parent)),
    "generation": ("generation_config.json", lambda folder, _: read_generation({}, folder)),
    "gguf": (SINGLE, lambda folder, _: convert_gguf(folder / SINGLE, folder.parent, print)),
    "model": (SINGLE, lambda folder, _: load_model(folder)),
}


@pytest.mark.parametrize("reader", READERS)
def test_an_unreadable_file_is_named_as_one_of_the_source(
    reader: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, read = READERS[reader]
    checkpoint = open_checkpoint(folder)
    forbid(monkeypatch, name)
    with pytest.raises(ModelError, match=rf"checkpoint/{name} cannot be read: Permission denied"):
        read(folder, checkpoint)


def test_an_unreadable_companion_is_not_told_as_an_output_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "chat_template.jinja")
    (folder / "chat_template.jinja").touch()
    result = CliRunner().invoke(app, ["export", "--model", str(folder), "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "chat_template.jinja cannot be read" in result.stderr
    assert "--output" not in result.stderr
