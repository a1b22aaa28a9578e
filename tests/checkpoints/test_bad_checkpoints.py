"""Checkpoints that look like models and are none, or that would run code: refused, with what to do instead."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import math
import re
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from amp_export.architectures import ModelConfig, find_architecture, supported_model_types
from amp_export.checkpoints import modeling_amp, unsupported
from amp_export.checkpoints.loading import load_model, load_tokenizer
from amp_export.checkpoints.older_versions import add_old_names
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.checkpoints.sources import resolve_model
from amp_export.checkpoints.unsupported import check_known_fields
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.cli import app
from amp_export.errors import ModelError, UnsupportedModelError
from tests.support.lopsided import TOKENS, save_lopsided
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

Change = Callable[[Path], object]


def set_fields(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


def write_json(name: str, content: Any) -> Change:
    return lambda folder: (folder / name).write_text(json.dumps(content))


def all_of(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def as_int8(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, folder / SINGLE, metadata={"format": "pt"})


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / SINGLE), folder / "pytorch_model.bin")
    (folder / SINGLE).unlink()


class Malicious:
    """What it reduces to is called when it is unpickled in full."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base"}
MODELING = "from pathlib import Path\nPath({marker!r}).touch()\nraise RuntimeError('this was run')\n"

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


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "checkpoint"))


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


def test_a_field_that_is_declared_and_not_known_is_refused(folder: Path) -> None:
    raw, config = read_config(folder)
    check_known_fields(raw, config.architecture)
    defaults = {name: value for name, value in config.architecture.defaults.items() if name != "mlp_bias"}
    older = replace(config.architecture, defaults=defaults)
    check_known_fields({**raw, "mlp_bias": False}, older)  # what the class assumes anyway
    with pytest.raises(UnsupportedModelError, match=r"LlamaConfig .* whose effect .* does not know: mlp_bias = True"):
        check_known_fields({**raw, "mlp_bias": True}, older)


def test_pruning_checks_the_fields(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_export.pruning import pipeline

    def refuse(*_: object) -> None:
        raise UnsupportedModelError("a field")

    monkeypatch.setattr(pipeline, "check_known_fields", refuse)
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


def test_pickles_are_converted_once_with_all_that_goes_along(folder: Path, tmp_path: Path) -> None:
    expected = load_file(folder / SINGLE)
    as_pickle(folder)
    torch.save({"not": "weights"}, folder / "training_args.bin")
    said: list[str] = []
    found = resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True, on_status=said.append).path
    assert any("Converting" in line for line in said)
    assert open_checkpoint(found).raw_config == add_old_names(read_config(folder)[0])
    assert load_file(found / SINGLE).keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in load_file(found / SINGLE).items())
    assert {file.name for file in found.iterdir()} >= {"tokenizer.json", "tokenizer_config.json", "config.json"}
    assert load_tokenizer(found)("abc").input_ids == load_tokenizer(folder)("abc").input_ids
    said.clear()
    assert resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True, on_status=said.append).path == found
    assert not any("Converting" in line for line in said)
    set_fields(rms_norm_eps=1e-3)(folder)
    assert resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True).path != found


def test_pickles_in_shards_and_of_bfloat16_are_read(folder: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / SINGLE).items()}
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    write_json("pytorch_model.bin.index.json", {"weight_map": weight_map})(folder)
    (folder / SINGLE).unlink()
    found = open_checkpoint(resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True).path)
    assert found.dtype == "bfloat16"
    assert found.tensors.keys() == tensors.keys()


def test_pickles_work_the_whole_way(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_EXPORT_CACHE", str(tmp_path / "cache"))
    as_pickle(folder)
    common = ["--model", str(folder), "--allow-pickle", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["prune", *common, "--ratio", "0.2", "--snap", "1"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["export", *common, "--overwrite"]).exit_code == 0


def test_a_malicious_pickle_runs_nothing(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    marker = tmp_path / "marker"
    for legacy in (False, True):
        content = {**tensors, "evil": Malicious(marker)}
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelError, match=r"more than tensors[\s\S]*No code in it was run"):
            resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True)
        assert not marker.exists()
        assert [path.suffix for path in (tmp_path / "cache" / "pickles").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut short"])
def test_a_damaged_pickle_says_so(content: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True)


def test_a_pickle_of_something_else_says_so(folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).unlink()
    for content, said in (
        ([torch.ones(1)], "a dict of weights is expected"),
        ({"model": {"weight": torch.ones(1)}}, "holds dict under 'model', but a weight is expected"),
    ):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=said):
            resolve_model(folder, cache=tmp_path / "cache", allow_pickle=True)


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
        app, ["prune", "--model", str(folder), "--ratio", "0.2", "--snap", "1", "--output", str(tmp_path / "out")]
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


def test_the_modeling_file_knows_the_attributes_of_all_facts() -> None:
    stacks = [stack for name in supported_model_types() for stack in find_architecture(name).stacks]
    blocks = [block for stack in stacks for block in (stack.attention, stack.mlp) if block is not None]
    assert {name for block in blocks for name in block.attributes} == modeling_amp.ATTRIBUTES


def test_code_planted_in_a_resized_checkpoint_is_not_run(tmp_path: Path) -> None:
    pruned = save_lopsided(tmp_path, "llama")
    marker = tmp_path / "marker"
    (tmp_path / "pruned" / "modeling_amp.py").write_text(MODELING.format(marker=str(marker)))
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "pruned")(TOKENS).logits, pruned(TOKENS).logits)
    load_tokenizer(tmp_path / "pruned")
    assert not marker.exists()


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


def test_shards_are_read_and_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_export.checkpoints.writing import write_checkpoint
    from amp_export.pruning import pipeline

    whole = load_model(folder)
    whole.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    save_tiny_tokenizer(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    monkeypatch.setattr(
        pipeline, "write_checkpoint", lambda *given, **named: write_checkpoint(*given, **named, shard_bytes=20_000)
    )
    pruned = []
    for source, output in ((folder, "out"), (tmp_path / "sharded", "out from shards")):
        common = ["--model", str(source), "--ratio", "0.2", "--snap", "1", "--output", str(tmp_path / output)]
        result = CliRunner().invoke(app, ["prune", *common])
        assert result.exit_code == 0, result.output
        assert len(list((tmp_path / output / "pruned").glob("model-*.safetensors"))) > 2
        pruned.append(load_model(tmp_path / output / "pruned"))
    with torch.inference_mode():
        assert torch.equal(pruned[0](TOKENS).logits, pruned[1](TOKENS).logits)


def test_numbers_that_nothing_reads_are_no_quantized_weights(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "bert", "bert")
    tensors = load_file(folder / SINGLE)
    save_file({**tensors, "bert.embeddings.position_ids": torch.arange(8)[None]}, folder / SINGLE)
    assert open_checkpoint(folder).dtype == "float32"


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
