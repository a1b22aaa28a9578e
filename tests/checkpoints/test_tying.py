"""Where config.json ties weights that the files hold with different values, the files decide, as in transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from amp_export.architectures import find_architecture, parameter_count, supported_model_types
from amp_export.checkpoints import tying
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.cli import app
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

TYING = [name for name in supported_model_types() if "tie_word_embeddings" in find_architecture(name).defaults]


def store_tied(folder: Path, model_type: str, *, change: float) -> Path:
    """Writes a model whose config ties weights, and its files with these apart by `change`."""
    save_tiny_model(folder, model_type, tie_word_embeddings=True, num_hidden_layers=1)
    model = load_model(folder)
    tensors = load_file(folder / SINGLE)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tied = {name: other for name, other in model.all_tied_weights_keys.items() if name.endswith("weight")}
    assert tied
    for name in tied:
        tensors[name] = parameters[name].detach().clone()
        tensors[name][-1, -1] += change
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("change", [0.0, 0.5])
@pytest.mark.parametrize("model_type", TYING)
def test_parameters_are_those_of_the_model_that_transformers_loads(
    model_type: str, change: float, tmp_path: Path
) -> None:
    config = open_checkpoint(store_tied(tmp_path / "tied", model_type, change=change)).config
    loaded = load_model(tmp_path / "tied")
    assert parameter_count(config) == sum(math.prod(parameter.shape) for parameter in loaded.parameters())
    if config.architecture.knows_files:
        assert config.tie_word_embeddings == (change == 0)


@pytest.mark.parametrize("rows", [1, 50, 101])
def test_a_difference_is_found_in_any_part(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tying, "ROWS", rows)
    assert not open_checkpoint(store_tied(tmp_path / "tied", "llama", change=1e-6)).config.tie_word_embeddings


def test_a_head_that_is_not_tied_is_pruned_and_exported_as_it_is(tmp_path: Path) -> None:
    folder, out, dense = store_tied(tmp_path / "tied", "llama", change=0.5), tmp_path / "out", tmp_path / "dense"
    save_tiny_tokenizer(folder)
    for command in (
        ["prune", "--model", folder, "--ratio", "0.1", "--snap", "1", "--one-width", "--output", out],
        ["export", "--model", folder, "--output", dense],
        ["validate", dense],
    ):
        result = CliRunner().invoke(app, [str(part) for part in command])
        assert result.exit_code == 0, result.output
    assert json.loads((out / "pruned/config.json").read_text())["tie_word_embeddings"] is False
    head = open_checkpoint(out / "pruned").read("lm_head.weight")
    np.testing.assert_array_equal(head, load_file(folder / SINGLE)["lm_head.weight"])


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_tied_weights_stay_tied(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tied", model_type, tie_word_embeddings=True)
    save_tiny_tokenizer(folder)
    head = f"{find_architecture(model_type).head}.weight"
    result = CliRunner().invoke(
        app, ["prune", "--model", str(folder), "--ratio", "0.1", "--snap", "1", "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert head not in open_checkpoint(tmp_path / "out" / "pruned").tensors
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "pruned")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
