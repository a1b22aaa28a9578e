"""Checkpoints that only the modelling file loads: anywhere with it, nowhere without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from amp_export.api.subjects import read_ending_tokens
from amp_export.architectures import RESIZED_MODEL_TYPE, Kind, find_architecture, supported_model_types
from amp_export.checkpoints import modeling_amp
from amp_export.checkpoints.building import register_resized
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import ModelError
from amp_export.pruning import rewriting
from amp_export.pruning.reload_check import expect, prove_reload
from tests.support.family_runner import run
from tests.support.forms import one_of_each_form
from tests.support.lopsided import TOKENS, lopsided_plan, save_lopsided

pytestmark = pytest.mark.slow


def test_names_are_the_same_on_both_sides_and_unknown_to_transformers() -> None:
    assert modeling_amp.MODEL_TYPE == RESIZED_MODEL_TYPE
    assert modeling_amp.GENERATION_FIELDS == rewriting.GENERATION_FIELDS
    known = "from transformers import CONFIG_MAPPING; print('amp_resized' in CONFIG_MAPPING)"
    assert subprocess.check_output([sys.executable, "-c", known], text=True).strip() == "False"


@pytest.mark.parametrize("model_type", supported_model_types())
def test_every_family_takes_layers_of_different_widths(model_type: str, tmp_path: Path) -> None:
    pruned = save_lopsided(tmp_path, model_type)
    checkpoint = open_checkpoint(tmp_path / "pruned")
    assert checkpoint.raw_config["model_type"] == RESIZED_MODEL_TYPE
    assert checkpoint.widths == lopsided_plan(checkpoint.config).widths
    reloaded = load_model(tmp_path / "pruned")
    assert torch.equal(run(reloaded, checkpoint.config), run(pruned, checkpoint.config))
    if checkpoint.config.architecture.kind is Kind.DECODER:
        # with a cache, whose layers differ too
        greedy = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(reloaded.generate(TOKENS, **greedy), pruned.generate(TOKENS, **greedy))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text", "t5", "whisper"])
def test_generation_knows_what_the_dense_config_says_of_it(model_type: str, tmp_path: Path) -> None:
    said = {"eos_token_id": 7, "pad_token_id": 3, "bos_token_id": 5, "decoder_start_token_id": 5}
    save_lopsided(tmp_path, model_type, **said)

    def load(name: str) -> transformers.PreTrainedModel:
        # a GGUF file has none, for example
        (tmp_path / name / "generation_config.json").unlink()
        return load_model(tmp_path / name)

    dense, resized = load("dense"), load("pruned")
    resized.save_pretrained(tmp_path / "again")
    for model in (resized, load("again")):
        assert model.generation_config.to_diff_dict() == dense.generation_config.to_diff_dict()
        assert model.generation_config.eos_token_id == 7
    assert read_ending_tokens(tmp_path / "pruned") == [7]


@pytest.mark.parametrize(
    "model_type", [each for each in one_of_each_form() if find_architecture(each).kind is Kind.DECODER]
)
def test_a_static_cache_has_the_heads_of_each_layer(model_type: str, tmp_path: Path) -> None:
    save_lopsided(tmp_path, model_type)
    model = load_model(tmp_path / "pruned")
    checkpoint = open_checkpoint(tmp_path / "pruned")
    # a layer without attention is left what the dense model has
    counts = [layer.key_value_heads or checkpoint.config.num_key_value_heads for layer in checkpoint.widths]
    # these have multi-query attention: one head in every layer
    dense = [checkpoint.config.num_key_value_heads] * 3
    alike = dense if find_architecture(model_type).heads_stay else [1] * 3 * (model_type in ("falcon", "gpt_bigcode"))
    assert len(set(counts)) > 1 or counts == alike
    head_dim = checkpoint.config.head_dim
    # latents that all heads share have a shape of their own, which is not known before the first pass
    shape = None if "kv_lora_rank" in find_architecture(model_type).defaults else (counts, head_dim)
    if len(set(counts)) == 1:
        shape = (counts[0], head_dim)
    assert model._get_static_cache_init_shape() == shape
    greedy = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "disable_compile": True}
    expected = model.generate(TOKENS, **greedy)
    assert torch.equal(model.generate(TOKENS, cache_implementation="static", **greedy), expected)
    # in chunks, the cache is allocated before the first pass, by what the config says
    chunks = {"cache_implementation": "static", "prefill_chunk_size": 3}
    assert torch.equal(model.generate(TOKENS, **chunks, **greedy), expected)


def test_the_config_of_each_layer_is_read_as_in_transformers(tmp_path: Path) -> None:
    save_lopsided(tmp_path, "gemma3_text")
    config = load_model(tmp_path / "pruned").config
    layers = config.per_layer_config
    assert [layer.num_key_value_heads for layer in layers] == [2, 1, 2]
    assert [layer.num_key_value_heads for layer in layers[1:]] == [1, 2]
    assert layers[-1].num_key_value_heads == 2
    assert len(layers) == config.num_hidden_layers
    assert config.num_key_value_heads == 2, "one count for all layers is the dense model's"
    assert layers["sliding_attention"] is config
    with pytest.raises(IndexError):
        layers[3]
    with pytest.raises(ValueError, match="cannot be changed"):
        config.per_layer_config = {0: {"num_key_value_heads": 1}}


FILLABLE = [
    each
    for each in one_of_each_form()
    if not any(tensor.spans_heads for tensor in find_architecture(each).attention.tensors)
]
"""One family of each form without a norm over all heads at once, which zeros would change."""


@pytest.mark.parametrize("model_type", FILLABLE)
def test_every_form_can_be_filled_up_with_zeros(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "resized").mkdir()
    resized = save_lopsided(tmp_path / "resized", model_type)
    save_lopsided(tmp_path, model_type, pad=True)
    config = open_checkpoint(tmp_path / "dense").config
    padded = load_model(tmp_path / "pruned")
    torch.testing.assert_close(run(padded, config), run(resized, config), rtol=0, atol=5e-5)


def test_with_the_modelling_file_it_loads_where_this_package_is_not_installed(tmp_path: Path) -> None:
    pruned = save_lopsided(tmp_path, "llama")
    expected = expect(pruned, open_checkpoint(tmp_path / "pruned").config, load_tokenizer(tmp_path / "pruned"))
    proof = prove_reload(tmp_path / "pruned", expected, stock=False)
    assert proof.class_name == "LlamaForCausalLM"
    assert proof.logits_compared > 1000


REFUSED = """
import json, sys, transformers
advice = {}
for name in ("AutoModelForCausalLM", "AutoConfig", "LlamaForCausalLM", "LlamaModel"):
    try:
        getattr(transformers, name).from_pretrained(sys.argv[1])
    except Exception as error:
        advice[name] = [word for word in ("trust_remote_code=True", "size") if word in str(error)]
with open(sys.argv[2], "w") as file:
    json.dump(advice, file)
"""


def test_without_the_modelling_file_it_does_not_load(tmp_path: Path) -> None:
    save_lopsided(tmp_path, "llama")
    found = subprocess.run(
        [sys.executable, "-I", "-c", REFUSED, tmp_path / "pruned", tmp_path / "advice.json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert found.returncode == 0, found.stderr
    assert json.loads((tmp_path / "advice.json").read_text()) == {
        "AutoModelForCausalLM": ["trust_remote_code=True"],
        "AutoConfig": ["trust_remote_code=True"],
        "LlamaForCausalLM": ["size"],
        "LlamaModel": ["size"],
    }


def test_where_this_package_is_installed_no_remote_code_is_needed(tmp_path: Path) -> None:
    pruned = save_lopsided(tmp_path, "qwen3")
    register_resized()
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    with torch.inference_mode():
        assert torch.equal(reloaded(TOKENS).logits, pruned(TOKENS).logits)


def test_it_survives_being_saved_again(tmp_path: Path) -> None:
    pruned = save_lopsided(tmp_path, "phi3")
    load_model(tmp_path / "pruned").save_pretrained(tmp_path / "again")
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "again")(TOKENS).logits, pruned(TOKENS).logits)
    assert open_checkpoint(tmp_path / "again").widths == open_checkpoint(tmp_path / "pruned").widths


@pytest.mark.parametrize("arguments", [["prune", "--output", "out"], ["doctor"]])
def test_it_is_not_pruned_again(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_lopsided(tmp_path, "llama")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--model", "pruned", "--ratio", "0.1", "--snap", "1"])
    assert result.exit_code == 2, result.output
    assert "cannot be pruned again" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("field", "value"), [("layer_widths", []), ("layer_widths", [{"heads": 1}]), ("dense", None)])
def test_a_damaged_config_says_so(field: str, value: object, tmp_path: Path) -> None:
    save_lopsided(tmp_path, "llama")
    file = tmp_path / "pruned" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ModelError, match=r"layer_widths|dense"):
        open_checkpoint(tmp_path / "pruned")
