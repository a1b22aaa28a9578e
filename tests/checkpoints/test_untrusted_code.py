"""Code in or beside a checkpoint: it is not run, and nobody is asked whether to."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from amp_export.architectures import find_architecture, supported_model_types
from amp_export.checkpoints import modeling_amp
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.sources import resolve_model
from amp_export.cli import app
from amp_export.errors import ModelError
from tests.support.bad_checkpoints import MODELING, set_fields, write_json
from tests.support.lopsided import TOKENS, save_lopsided


def test_code_beside_a_known_family_is_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name in ("configuration_own.py", "modeling_own.py", "tokenization_own.py"):
        (folder / name).write_text(MODELING.format(marker=str(marker)))
    set_fields(
        auto_map={"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "other/repo--modeling_own.Own"}
    )(folder)
    said: list[str] = []
    assert resolve_model(folder, on_status=said.append).path == folder
    assert said == [
        "Code in the checkpoint is not run (configuration_own.py, modeling_own.py); transformers' own class is used."
    ]
    assert type(load_model(folder)).__name__ == "LlamaForCausalLM"
    load_tokenizer(folder)
    result = CliRunner().invoke(
        app,
        [
            "prune",
            "--model",
            str(folder),
            "--ratio",
            "0.2",
            "--snap",
            "1",
            "--one-width",
            "--output",
            str(tmp_path / "out"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "auto_map" not in json.loads((tmp_path / "out/pruned/config.json").read_text())
    assert not marker.exists()


def test_code_of_a_tokenizer_is_not_run_and_nobody_is_asked(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (folder / "tokenization_own.py").write_text(MODELING.format(marker=str(marker)))
    write_json(
        "tokenizer_config.json",
        {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}},
    )(folder)
    with contextlib.suppress(ModelError):
        load_tokenizer(folder)
    assert not marker.exists()


def test_a_class_that_transformers_lacks_is_named(folder: Path) -> None:
    set_fields(architectures=["OwnForCausalLM"])(folder)
    with pytest.raises(ModelError, match=r"OwnForCausalLM, which transformers .* does not have"):
        load_model(folder)


@pytest.mark.parametrize("name", ["AutoTokenizer", "LlamaConfig", "pipeline", "logging"])
def test_a_name_in_transformers_that_is_no_model_is_not_called(name: str, folder: Path) -> None:
    set_fields(architectures=[name])(folder)
    with pytest.raises(ModelError, match=f"names the class {name}"):
        load_model(folder)


LAYER = "model.layers.0.mlp"


def resizes(path: str, **changes: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["resized_modules"].update({path: changes})


TAMPERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "'pipeline' is not a model class": lambda raw: raw.update(dense_class="pipeline"),
    "'AutoTokenizer' is not a model class": lambda raw: raw.update(dense_class="AutoTokenizer"),
    "'MistralForCausalLM' is not a model class": lambda raw: raw.update(dense_class="MistralForCausalLM"),
    "'forward' of model.layers.0.mlp": resizes(LAYER, attributes={"forward": 1}),
    "'num_heads' of model.layers.0.mlp": resizes(LAYER, attributes={"num_heads": "4"}),
    "'config.hidden_act'": resizes(LAYER, attributes={"config.hidden_act": 1}),
    "no parameter 'act_fn'": resizes(LAYER, parameters={"act_fn": [1]}),
    "no module 'model.nowhere'": resizes("model.nowhere"),
    "names the class LlamaForCausalLM": lambda raw: raw.update(architectures=["LlamaForCausalLM"]),
}


@pytest.mark.parametrize("said", TAMPERED)
def test_a_resized_checkpoint_changes_known_counts_and_parameters_only(said: str, tmp_path: Path) -> None:
    save_lopsided(tmp_path, "llama")
    file = tmp_path / "pruned/config.json"
    raw = json.loads(file.read_text())
    TAMPERED[said](raw)
    file.write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=re.escape(said)):
        load_model(tmp_path / "pruned")


def test_the_modeling_file_knows_the_fields_of_all_facts() -> None:
    stacks = [stack for name in supported_model_types() for stack in find_architecture(name).stacks]
    blocks = [block for stack in stacks for block in (stack.attention, stack.mlp) if block is not None]
    names = {name for block in blocks for name in block.attributes if "." in name}
    assert "config.num_attention_heads" in names <= modeling_amp.FIELDS


def test_code_planted_in_a_resized_checkpoint_is_not_run(tmp_path: Path) -> None:
    pruned = save_lopsided(tmp_path, "llama")
    marker = tmp_path / "marker"
    (tmp_path / "pruned" / "modeling_amp.py").write_text(MODELING.format(marker=str(marker)))
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "pruned")(TOKENS).logits, pruned(TOKENS).logits)
    load_tokenizer(tmp_path / "pruned")
    assert not marker.exists()
