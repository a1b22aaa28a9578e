"""onnxruntime-genai opens an exported folder as it is, and says the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amp_export.architectures import LayerWidths
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.errors import ModelError
from amp_export.exporters.onnx import export, run
from amp_export.options import Operators
from tests.support.tiny_models import BUILDABLE, save_tiny_model
from tests.support.uneven_models import UNEVEN, uneven

genai = pytest.importorskip("onnxruntime_genai")

PROMPT = [5, 17, 60, 33, 8]
LENGTH = 24


def checkpoint_of(folder: Path, model_type: str, **overrides: Any) -> Checkpoint:
    return open_checkpoint(save_tiny_model(folder / "checkpoint", model_type, **overrides))


def greedy_tokens(folder: Path) -> list[int]:
    decoder = run(folder, threads=1)
    tokens, past = list(PROMPT), None
    while len(tokens) < LENGTH:
        start = past.length if past else 0
        logits, past = decoder.forward(
            np.array([tokens[start:]]), np.ones((1, len(tokens)), np.int64), np.arange(start, len(tokens))[None], past
        )
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


def genai_tokens(folder: Path) -> list[int]:
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=LENGTH, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array([PROMPT], dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


@pytest.mark.parametrize(
    ("model_type", "overrides"),
    [
        *((model_type, {}) for model_type in BUILDABLE),
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {"sliding_window": 6}),
        ("qwen3", {"num_key_value_heads": 4}),
    ],
)
def test_genai_generates_the_same_greedy_tokens(tmp_path: Path, model_type: str, overrides: dict[str, Any]) -> None:
    checkpoint = checkpoint_of(tmp_path, model_type, **overrides)
    for operators in Operators:
        says_the_same(export(checkpoint, tmp_path / operators, operators=operators).folder)


@pytest.mark.parametrize(("model_type", "overrides", "widths"), UNEVEN.values(), ids=UNEVEN)
def test_each_layer_may_have_its_own_heads(
    tmp_path: Path, model_type: str, overrides: dict[str, Any], widths: tuple[LayerWidths, ...]
) -> None:
    checkpoint, _ = uneven(tmp_path, model_type, overrides, widths)
    for operators in Operators:
        says_the_same(export(checkpoint, tmp_path / operators, operators=operators).folder)


def says_the_same(folder: Path) -> None:
    """Check that genai chooses the tokens that the graph's logits say."""
    expected = greedy_tokens(folder)
    # the text must not end early, or too little is compared
    content = json.loads((folder / "genai_config.json").read_text())
    content["model"]["eos_token_id"] = next(token for token in range(100) if token not in expected)
    (folder / "genai_config.json").write_text(json.dumps(content))
    assert len(set(expected)) > 4, "a text that repeats itself would not show a wrong position"
    assert genai_tokens(folder) == expected


def test_the_config_shares_no_buffer_and_says_nothing_of_the_exporting_machine(tmp_path: Path) -> None:
    folder = export(checkpoint_of(tmp_path, "llama"), tmp_path / "onnx").folder
    content = json.loads((folder / "genai_config.json").read_text())
    assert content["model"]["decoder"]["session_options"] == {"provider_options": []}
    assert content["model"]["decoder"]["inputs"]["position_ids"] == "position_ids"
    assert content["search"]["past_present_share_buffer"] is False
    assert content["model"]["context_length"] == content["search"]["max_length"] == 128


def test_the_generation_config_goes_before_the_config(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "llama")
    (checkpoint.path / "generation_config.json").write_text('{"eos_token_id": [2, 9], "temperature": 0.6}')
    content = json.loads((export(checkpoint, tmp_path / "onnx").folder / "genai_config.json").read_text())
    assert content["model"]["eos_token_id"] == [2, 9]
    assert content["model"]["bos_token_id"] == 1
    assert content["search"]["temperature"] == 0.6


def test_genai_needs_no_padding_token(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "llama", pad_token_id=None, bos_token_id=None)
    folder = export(checkpoint, tmp_path / "onnx").folder
    assert "pad_token_id" not in json.loads((folder / "genai_config.json").read_text())["model"]
    assert genai_tokens(folder) == greedy_tokens(folder)


def test_a_damaged_generation_config_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "llama")
    (checkpoint.path / "generation_config.json").write_text('{"eos_token_id": ')
    with pytest.raises(ModelError, match=r"generation_config\.json is not valid JSON"):
        export(checkpoint, tmp_path / "onnx")


def test_a_resized_checkpoint_is_described_as_the_dense_one(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "llama")
    (checkpoint.path / "generation_config.json").unlink()
    resized = dataclasses.replace(checkpoint, raw_config={"model_type": "amp_resized", "dense": checkpoint.raw_config})
    content = json.loads((export(resized, tmp_path / "onnx").folder / "genai_config.json").read_text())
    assert content["model"]["type"] == "llama"
    assert content["model"]["eos_token_id"] == 2


def test_no_config_is_written_where_no_token_ends_a_text(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, "llama")
    (checkpoint.path / "generation_config.json").unlink()
    endless = dataclasses.replace(checkpoint, raw_config={**checkpoint.raw_config, "eos_token_id": None})
    assert not (export(endless, tmp_path / "onnx").folder / "genai_config.json").exists()
