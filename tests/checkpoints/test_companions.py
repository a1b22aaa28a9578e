"""What lies beside config and weights travels if it stays true of the pruned model, and is named if it stays behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from amp_export.checkpoints import companions
from amp_export.checkpoints.companions import TABLE, choose_companions, describe_left, find_companions
from amp_export.checkpoints.reading import read_config
from amp_export.checkpoints.source_files import copy_files
from amp_export.cli import app
from amp_export.errors import UnsupportedModelError
from tests.support.tiny_models import save_tiny_model

TRAVEL = (
    *("tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.txt", "merges.txt", "normalizer.json"),
    *("tekken.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "generation_config.json"),
    *("preprocessor_config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    *("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "LICENSE", "LICENCE.txt"),
    *("license.md", "NOTICE", "Notice.txt", "COPYING", "USE_POLICY.md"),
)
STAY = (
    *("README.md", "params.json", "consolidated.safetensors", "consolidated.00.pth", "tekken.gguf", "model.onnx"),
    *("model.onnx_data", "pytorch_model.bin", "tf_model.h5", "tokenizer.safetensors", "notes.txt", "inference.py"),
    *("adapter_model.safetensors", "vocab/x.txt", "onnx/model.onnx", "1_Pooling/code.py", "4_bits/deep/config.json"),
)


def names_like(pattern: str) -> st.SearchStrategy[str]:
    """Names that match a pattern, in any case."""
    parts = [st.just(part) if part != "*" else st.text("aB3_-", max_size=5) for part in re.split(r"(\*)", pattern)]
    plain = st.tuples(*parts).map("".join)
    return plain.map(lambda name: name.replace("[0-9]", "7").replace("[cs]", "s").replace("?", "_"))


@given(
    data=st.data(),
    entries=st.lists(st.sampled_from(TABLE), min_size=1, max_size=6),
)
def test_one_entry_decides_for_each_name(data: st.DataObject, entries: list[companions.Companions]) -> None:
    names = [data.draw(names_like(data.draw(st.sampled_from(entry.patterns)))) for entry in entries]
    chosen = choose_companions([*names, "modules.json"])
    assert chosen == sorted(set(chosen))
    for entry, name in zip(entries, names, strict=True):
        for given_name in (name, name.upper()):
            assert entry.match(given_name)
        first = next(each for each in TABLE if each.match(name))
        assert (name in chosen) == (not first.why)
        if name.count("/") == 0 and name.endswith((".safetensors", ".gguf", ".onnx", ".pth")):
            assert name not in chosen, "weights of the dense model"


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=12))
def test_no_other_name_travels(name: str) -> None:
    assert choose_companions([name, f"{name}/{name}"]) == sorted(
        each for each in {name, f"{name}/{name}"} if any(entry.match(each) and not entry.why for entry in TABLE)
    )


def test_known_files_travel_or_stay() -> None:
    assert choose_companions([*TRAVEL, *STAY]) == sorted(TRAVEL)
    alone = choose_companions(["1_Pooling/config.json", "2_Dense/model.safetensors"])
    assert alone == [], "they are modules only beside the list of modules"


@pytest.fixture
def source(tiny_llama: Path, tmp_path: Path) -> Path:
    """A checkpoint with all companions, and all that must not travel."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "checkpoint"))
    for name in (*TRAVEL, *STAY):
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}" if name.endswith(".json") else f"content of {name}")
    # not the files of a tokenizer of another kind
    for name in ("tokenizer.safetensors", "tekken.json", "spiece.model", "vocab.txt", "merges.txt"):
        (folder / name).unlink()
    for name in ("adapter_model.safetensors", "additional_chat_templates/tool_use.jinja"):
        (folder / name).unlink()
    return folder


def test_copies_keep_their_folders_and_content(source: Path, tmp_path: Path) -> None:
    found = find_companions(source)
    copy_files(found, tmp_path / "copy", base=source)
    copied = {file.relative_to(tmp_path / "copy") for file in (tmp_path / "copy").rglob("*") if file.is_file()}
    assert copied == {file.relative_to(source) for file in found}
    assert Path("2_Dense/model.safetensors") in copied
    assert all((tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes() for name in copied)


@pytest.mark.parametrize("command", [["prune", "--ratio", "0.1", "--snap", "1"], ["export"]])
def test_commands_take_them_along_and_name_what_they_leave(command: list[str], source: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*command, "--model", str(source), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / ("pruned" if command[0] == "prune" else "onnx")
    for file in find_companions(source):
        assert (folder / file.relative_to(source)).is_file(), file
    for name in ("README.md", "params.json", "consolidated.safetensors", "notes.txt"):
        assert not (folder / name).exists()
    if command[0] == "prune":
        said = " ".join(result.stderr.split())
        assert "README.md (on the dense model)" in said
        assert "inference.py, notes.txt, vocab (purpose not known)" in said
        assert "model.safetensors," not in said.split("Not copied:")[1].replace("consolidated.safetensors", "")


def test_nothing_is_said_where_nothing_stays_behind(tiny_llama: Path) -> None:
    assert list(describe_left(tiny_llama, ["model.safetensors"])) == []


def test_heads_that_transformers_4_would_remove_again_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pruned_heads": {}}))
    read_config(folder)
    (folder / "config.json").write_text(json.dumps({**config, "pruned_heads": {"0": [1]}}))
    with pytest.raises(UnsupportedModelError, match=r"pruned_heads is \{'0': \[1\]\}"):
        read_config(folder)
