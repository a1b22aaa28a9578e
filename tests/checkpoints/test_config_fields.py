"""Fields of config.json that are not known, or of another type: refused, by their names."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from amp_export.architectures import ModelConfig, find_architecture, supported_model_types
from amp_export.checkpoints.reading import read_config
from amp_export.checkpoints.unsupported import check_known_fields
from amp_export.cli import app
from amp_export.errors import ModelError, UnsupportedModelError


def test_a_field_that_is_declared_and_not_known_is_refused(folder: Path) -> None:
    raw, config = read_config(folder)
    check_known_fields(raw, config.architecture)
    defaults = {name: value for name, value in config.architecture.defaults.items() if name != "mlp_bias"}
    older = replace(config.architecture, defaults=defaults)
    check_known_fields({**raw, "mlp_bias": False}, older)  # what the class assumes anyway
    with pytest.raises(UnsupportedModelError, match=r"LlamaConfig .* whose effect .* does not know: mlp_bias = True"):
        check_known_fields({**raw, "mlp_bias": True}, older)


def test_pruning_checks_the_fields(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_export.pruning import request

    def refuse(*_: object) -> None:
        raise UnsupportedModelError("a field")

    monkeypatch.setattr(request, "check_known_fields", refuse)
    result = CliRunner().invoke(app, ["prune", "--model", str(folder), "--ratio", "0.2", "-o", str(tmp_path / "out")])
    assert (result.exit_code, "a field" in result.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        # config.json of Qwen/Qwen2-0.5B and of a Llama 2: old names, and names that no class declares
        ("qwen2", {"use_mrope": False, "rope_theta": 1e6, "sliding_window": 131072, "max_window_layers": 24}),
        ("qwen2", {"rope_scaling": None, "torch_dtype": "bfloat16", "transformers_version": "4.37.0"}),
        ("llama", {"pretraining_tp": 2, "rope_scaling": {"type": "linear", "factor": 2.0}, "_name_or_path": "x"}),
        ("gpt2", {"n_ctx": 1024, "num_attention_heads": 12, "task_specific_params": {"text-generation": {}}}),
    ],
)
def test_old_and_undeclared_names_pass(model_type: str, fields: dict[str, Any]) -> None:
    check_known_fields({"model_type": model_type, **fields}, find_architecture(model_type))


@given(st.data())
def test_a_field_of_another_type_is_named(data: st.DataObject) -> None:
    architecture = find_architecture(data.draw(st.sampled_from(supported_model_types())))
    typed = sorted(name for name, default in architecture.defaults.items() if default is not None)
    name = data.draw(st.sampled_from(typed))
    default = architecture.defaults[name]
    wrong = {
        bool: ["x", 2, [1]],
        int: ["x", True, ["x"], math.nan],
        float: ["x", True, {"a": 1}],
        str: [1, False, ["x"]],
    }
    config = {"model_type": architecture.model_type, name: data.draw(st.sampled_from(wrong.get(type(default), ["x"])))}
    with pytest.raises(ModelError, match=rf"config\.json: {name} is .* expected"):
        ModelConfig.read(architecture, config)


@pytest.mark.parametrize(
    ("rope", "told"),
    [
        (True, "rope_parameters is True, where a table is expected"),
        ({"rope_theta": "x"}, "rope_parameters.rope_theta is 'x', where a number is expected"),
        ({"rope_type": 5}, "rope_parameters.rope_type is 5, where a text is expected"),
        ({"full_attention": {"factor": []}, "long_factor": [1, None]}, "long_factor is .* numbers are expected"),
    ],
)
def test_parameters_of_rope_of_another_type_are_named(rope: object, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        ModelConfig.read(find_architecture("llama"), {"model_type": "llama", "rope_parameters": rope})
