"""Checkpoints that look like models and are none: refused, with what to do instead."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from amp_export.checkpoints import unsupported
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.cli import app
from tests.support.bad_checkpoints import Change, as_pickle, set_fields, write_json
from tests.support.tiny_models import save_tiny_model


def all_of(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def as_int8(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, folder / SINGLE, metadata={"format": "pt"})


LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base"}

BAD: dict[str, tuple[Change, str]] = {
    "an unknown type with code": (
        set_fields(model_type="mystery", auto_map={"AutoConfig": "configuration_mystery.Config"}),
        "contains its own code (configuration_mystery.py",
    ),
    "bitsandbytes": (
        set_fields(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        'LlamaForCausalLM.from_pretrained("MODEL").dequantize()',
    ),
    "old bitsandbytes": (set_fields(quantization_config={"load_in_8bit": True}), "(bitsandbytes)"),
    "gptq": (set_fields(quantization_config={"quant_method": "gptq", "bits": 4}), "cannot dequantize gptq"),
    "awq": (set_fields(quantization_config={"quant_method": "awq", "bits": 4}), "cannot dequantize awq"),
    "fp8": (set_fields(quantization_config={"quant_method": "fp8"}), "FineGrainedFP8Config(dequantize=True)"),
    "compressed-tensors": (
        set_fields(quantization_config={"quant_method": "compressed-tensors"}),
        "CompressedTensorsConfig(dequantize=True)",
    ),
    "mxfp4": (set_fields(quantization_config={"quant_method": "mxfp4"}), "Mxfp4Config(dequantize=True)"),
    "one class as text": (
        set_fields(architectures="LlamaForCausalLM"),
        "architectures is 'LlamaForCausalLM', but must be a list of class names, such as [\"LlamaForCausalLM\"]",
    ),
    "a class that is no text": (set_fields(architectures=[5]), "architectures is [5], but must be a list"),
    "code in place of a class": (
        set_fields(architectures=["A\nimport os"], quantization_config={"quant_method": "fp8"}),
        "must be a list of class names",
    ),
    "int8 weights": (as_int8, "weights of dtype I8 are not supported"),
    "an adapter": (
        all_of(write_json("adapter_config.json", LORA), lambda folder: (folder / "config.json").unlink()),
        "AutoModelForCausalLM.from_pretrained('org/base', dtype=\"auto\")",
    ),
    "an adapter with a config": (write_json("adapter_config.json", LORA), "holds an adapter (LORA) of 'org/base'"),
    "an adapter of prompts": (
        write_json("adapter_config.json", {**LORA, "peft_type": "PROMPT_TUNING"}),
        "cannot be merged",
    ),
    "pickles": (as_pickle, "Give --allow-pickle"),
}


@pytest.mark.parametrize("case", BAD)
def test_it_is_refused_with_what_to_do_and_the_output_is_untouched(case: str, folder: Path, tmp_path: Path) -> None:
    change, message = BAD[case]
    change(folder)
    for verb in (["prune", "--ratio", "0.2"], ["export"]):
        result = CliRunner().invoke(app, [*verb, "--model", str(folder), "--output", str(tmp_path / "out")])
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.stderr.split())
        assert "Traceback" not in result.output
        assert not (tmp_path / "out").exists()


@given(st.text(min_size=1))
def test_code_to_copy_holds_names_as_text(name: str) -> None:
    code = unsupported._merge_code(Path("a b\"'"), {"task_type": "CAUSAL_LM"}, name)
    calls = [node for node in ast.walk(ast.parse(textwrap.dedent(code))) if isinstance(node, ast.Call)]
    constants = [argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant)]
    assert sorted(constants) == sorted([name, name, "a b\"'", "merged", "merged"])


def test_every_class_and_config_in_the_advice_is_one_of_transformers() -> None:
    from amp_export.checkpoints.unsupported import _AUTO_CLASSES, _CONFIGS

    for name in (*_AUTO_CLASSES.values(), *_CONFIGS.values()):
        assert hasattr(transformers, name), name
    for name in _CONFIGS.values():
        assert "dequantize" in inspect.signature(getattr(transformers, name)).parameters, name


def test_numbers_that_nothing_reads_are_no_quantized_weights(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "bert", "bert")
    tensors = load_file(folder / SINGLE)
    save_file({**tensors, "bert.embeddings.position_ids": torch.arange(8)[None]}, folder / SINGLE)
    assert open_checkpoint(folder).dtype == "float32"
