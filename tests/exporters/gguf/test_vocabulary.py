"""A GGUF file splits texts into the token ids that the checkpoint's own tokenizer gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amp_export.checkpoints.loading import load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.gguf.exporting import GgufExport, export
from amp_export.exporters.gguf.sentencepiece import SPACE, score_tokens
from tests.support.tiny_models import save_tiny_model
from tests.support.tiny_tokenizers import (
    BYTE_LEVEL,
    SPECIAL,
    byte_level,
    character_level,
    random_strings,
    save_tokenizer,
)

pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

from amp_export.exporters.gguf.files import exported_file
from amp_export.exporters.gguf.running import LlamaDecoder, run

STRINGS = 2000


def save(folder: Path, tokenizer: Any, **special: str) -> Path:
    """Write a tiny Llama with a tokenizer."""
    checkpoint = save_tiny_model(folder / "checkpoint", "llama", vocab_size=tokenizer.get_vocab_size() + 3)
    save_tokenizer(tokenizer, checkpoint, **special)
    return checkpoint


def load(folder: Path, checkpoint: Path) -> tuple[LlamaDecoder, GgufExport]:
    made = export(open_checkpoint(checkpoint), folder / "gguf")
    return run(folder / "gguf", threads=1), made


def read_keys(folder: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(exported_file(folder)).fields
    return {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer")}


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_tokens_are_the_checkpoints_own(name: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path, BYTE_LEVEL[name]())
    decoder, made = load(tmp_path, checkpoint)
    own = load_tokenizer(checkpoint)
    differing = [text for text in random_strings(STRINGS) if decoder.tokenize(text) != own(text)["input_ids"]]
    assert differing == []
    assert read_keys(tmp_path / "gguf")["tokenizer.ggml.pre"] == name
    assert any("NFC" in note for note in made.notes) == (name == "qwen2")


@pytest.mark.parametrize("prefix", ["prepend", "first", "none"])
def test_tokens_of_characters_are_the_checkpoints_own(prefix: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path, character_level(prefix), unk_token="<unk>")
    decoder, made = load(tmp_path, checkpoint)
    own = load_tokenizer(checkpoint)
    for text in random_strings(STRINGS):
        # the file's note says so: only this kind does not put the space there itself
        needs_space = prefix == "first" and text and not text.startswith((" ", *SPECIAL))
        assert decoder.tokenize(f" {text}" if needs_space else text) == own(text)["input_ids"], repr(text)
    assert any("put it there" in note for note in made.notes) == (prefix == "first")


def test_special_tokens_and_chat_templates_are_written(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level()
    start = SPECIAL[1]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
    )
    checkpoint = save(tmp_path, tokenizer)
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    decoder, _ = load(tmp_path, checkpoint)
    keys = read_keys(tmp_path / "gguf")
    assert decoder.tokenize("a") == load_tokenizer(checkpoint)("a")["input_ids"]
    assert (keys["tokenizer.ggml.add_bos_token"], keys["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("padding", "bos", "eos")] == [0, 1, 2]
    assert keys["tokenizer.chat_template"] == "{{ messages }}"
    assert keys["tokenizer.chat_template.tool_use"] == "{{ tools }}"
    assert keys["tokenizer.ggml.tokens"][-3:] == [f"[PAD{number}]" for number in range(420, 423)]


def test_without_a_tokenizer_the_file_has_none(tmp_path: Path) -> None:
    decoder, made = load(tmp_path, save_tiny_model(tmp_path / "checkpoint", "llama"))
    assert "takes token ids" in made.notes[0]
    with pytest.raises(UnsupportedModelError, match="has no tokenizer"):
        decoder.tokenize("a")


def change(checkpoint: Path, **changes: Any) -> None:
    file = checkpoint / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] |= changes.pop("model", {})
    file.write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pre_tokenizer": {"type": "Whitespace"}},
            "splits texts in a way .*: Whitespace.\nIts token ids would differ",
        ),
        ({"pre_tokenizer": None}, "no pre-tokenizer"),
        ({"model": {"ignore_merges": True}}, "ByteLevel, ignore_merges"),
        ({"model": {"type": "WordPiece"}}, "of the type WordPiece, and only BPE"),
        ({"post_processor": {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}}, "adds special tokens in a"),
        ({"model": {"byte_fallback": True}}, "prepares texts in a way .*: ByteLevel"),
    ],
)
def test_unknown_structures_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path, byte_level())
    change(checkpoint, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        export(open_checkpoint(checkpoint), tmp_path / "gguf")


def test_merges_that_scores_cannot_express_are_refused(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, character_level("none"), unk_token="<unk>")
    file = checkpoint / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][::-1][:-1]
    file.write_text(json.dumps(content))
    with pytest.raises(UnsupportedModelError, match=r"in an order that llama\.cpp's scores cannot express"):
        export(open_checkpoint(checkpoint), tmp_path / "gguf")


def test_runs_of_spaces_share_a_score() -> None:
    runs = [SPACE * count for count in (1, 2, 3, 4)]
    tokens = [*runs, "a", "b", "ab"]
    pairs = [(runs[0], runs[2]), (runs[0], runs[1]), (runs[1], runs[1]), (runs[1], runs[0])]
    merges = [("a", "b"), *pairs, (runs[2], runs[0]), (runs[0], runs[0])]
    scores = score_tokens(tokens, [1] * len(tokens), merges, "tokenizer.json")
    assert dict(zip(tokens, scores, strict=True)) == {
        runs[0]: -7.0,
        runs[1]: -6.0,
        runs[2]: -1.0,
        runs[3]: -1.0,
        "a": -7.0,
        "b": -7.0,
        "ab": 0.0,
    }


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", "llama", vocab_size=300)
    save_tokenizer(byte_level(), checkpoint)
    with pytest.raises(UnsupportedModelError, match=r"has a token of the id 419, .* embeds 300 tokens"):
        export(open_checkpoint(checkpoint), tmp_path / "gguf")
