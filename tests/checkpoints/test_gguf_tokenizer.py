"""A tokenizer that is read from a GGUF file splits texts as the file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from amp_export.checkpoints.loading import load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from tests.support.tiny_models import save_tiny_model
from tests.support.tiny_tokenizers import BYTE_LEVEL, SPECIAL, byte_level, random_strings, save_tokenizer

pytest.importorskip("gguf", reason="gguf is not installed")

from amp_export.exporters.gguf.exporting import export

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_EXPORT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_its_split_is_the_files(name: str, tmp_path: Path) -> None:
    tokenizer = BYTE_LEVEL[name]()
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama", vocab_size=tokenizer.get_vocab_size())
    save_tokenizer(tokenizer, checkpoint)
    made = export(open_checkpoint(checkpoint), tmp_path / "gguf")
    read = load_tokenizer(resolve_model(made.file).path)
    for text in random_strings(1000):
        assert read(text)["input_ids"] == tokenizer.encode(text).ids, repr(text)
    assert (read.bos_token, read.eos_token) == SPECIAL[1:]


def test_a_text_begins_with_the_token_that_the_file_names(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level()
    ids = [(token, tokenizer.token_to_id(token)) for token in SPECIAL[1:]]
    tokenizer.post_processor = TemplateProcessing(single=f"{SPECIAL[1]} $A {SPECIAL[2]}", special_tokens=ids)
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama", vocab_size=tokenizer.get_vocab_size())
    save_tokenizer(tokenizer, checkpoint)
    made = export(open_checkpoint(checkpoint), tmp_path / "gguf")
    read = load_tokenizer(resolve_model(made.file).path)
    assert read("a")["input_ids"] == tokenizer.encode("a").ids
    assert len(tokenizer.encode("a").ids) == 3


def test_a_split_that_is_not_known_is_told(tmp_path: Path) -> None:
    tokenizer = byte_level()
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama", vocab_size=tokenizer.get_vocab_size())
    save_tokenizer(tokenizer, checkpoint)
    made = export(open_checkpoint(checkpoint), tmp_path / "gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(made.file.read_bytes().replace(b"\x05\0\0\0\0\0\0\0gpt-2", b"\x05\0\0\0\0\0\0\0poro!"))
    said: list[str] = []
    resolve_model(other, on_status=said.append)
    assert "splits texts by llama.cpp's 'poro!', which is not known here" in said[-1]
