"""Graphs whose caches hold states: what they take and return, what others make of them, and what refuses them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from amp_export import BundleOptions, ExportOptions, export, validate
from amp_export.architectures import CacheTensor, LayerWidths, cache_tensors, find_architecture
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.devices.bundle import bundle
from amp_export.errors import AmpExportError, RequestError
from amp_export.exporters.models.caches import is_past, is_present, past_name, past_of, present_of
from amp_export.exporters.models.decoder import GraphDecoder
from amp_export.exporters.onnx import can_build, describe_graph, run
from amp_export.exporters.onnx import export as build
from amp_export.exporters.onnx.genai import cannot_describe
from amp_export.exporters.onnx.introspection.taps import find_taps
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.exporters.onnx.quantized_weights import quantized_names
from amp_export.exporting.drafting import prepare_pair
from amp_export.options import Dtype, Format, Operators, Via, WeightFormat
from amp_export.parity.comparison import compare_third_party
from amp_export.verb_options import DraftOptions, ValidateOptions
from tests.support.tiny_models import BUILDABLE, save_tiny_model, save_tiny_tokenizer
from tests.support.uneven_models import uneven

MIXED = {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}
KINDS = [name for name in BUILDABLE if find_architecture(name).keeps_states]
"""Families whose caches hold states."""


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with convolutions, and two that attend; nothing may change it."""
    # heads of 16 are what the onnxruntime-genai builder's attention takes
    folder = save_tiny_model(tmp_path_factory.mktemp("lfm2") / "checkpoint", "lfm2", head_dim=16, **MIXED)
    save_tiny_tokenizer(folder)
    return folder


def test_a_recurrence_keeps_float32_in_a_graph_of_half_the_width(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "qwen3_5_text")
    described = describe_graph(build(open_checkpoint(folder), tmp_path / "onnx", dtype=Dtype.FLOAT16).graph)
    states = {name: (port.dtype, port.axes) for name, port in described.inputs.items() if name.endswith(".0")}
    assert states == {
        "past_conv.0": ("float16", ("batch_size", 56, 4)),
        "past_recurrent.0": ("float32", ("batch_size", 4, 6, 8)),
    }
    assert described.outputs["present_recurrent.0"].dtype == "float32"
    decoder = run(tmp_path / "onnx", threads=1)
    assert decoder.dtype is Dtype.FLOAT16


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize("model_type", ["qwen3_5_text", "granitemoehybrid", "bamba", "falcon_h1"])
def test_one_step_of_a_recurrence_is_repeated_or_is_an_operator_of_the_runtime(
    model_type: str, operators: Operators, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "checkpoint", model_type))
    file = build(checkpoint, tmp_path / "onnx", operators=operators).graph
    found = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
    mixers = sum(site.stack.mixer is not None for site in checkpoint.config.sites)
    repeated, fused = (mixers, 0) if operators is Operators.STANDARD else (0, mixers)
    assert (found.count("Scan"), found.count("LinearAttention")) == (repeated, fused)


@pytest.mark.parametrize("dtype", [Dtype.FLOAT16, Dtype.BFLOAT16])
@pytest.mark.parametrize("model_type", KINDS)
def test_half_precision_holds_parity(model_type: str, dtype: Dtype, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type)
    save_tiny_tokenizer(folder)
    export(folder, tmp_path / "out", ExportOptions(dtype=dtype))
    if dtype is Dtype.FLOAT16:
        assert validate(tmp_path / "out", ValidateOptions(threads=1)).holds
    else:
        # ONNX Runtime computes no bfloat16 on a CPU
        onnx.checker.check_model(tmp_path / "out/onnx/model.onnx", full_check=True)


def test_files_of_larger_models_are_read_under_other_names(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "qwen3_5_text")
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("model.", "model.language_model."): tensor for name, tensor in tensors.items()}
    save_file({**renamed, "mtp.norm.weight": np.ones(32, np.float32)}, folder / "model.safetensors")
    build(open_checkpoint(folder), tmp_path / "onnx")
    assert run(tmp_path / "onnx").num_layers == 3


def test_states_have_the_names_that_others_give_them(lfm2: Path, tmp_path: Path) -> None:
    described = describe_graph(build(open_checkpoint(lfm2), tmp_path / "onnx").graph)
    state, growing = ("batch_size", 32, 3), ("batch_size", 2, "past_sequence_length", 16)
    cache = {name: port.axes for name, port in described.inputs.items() if is_past(name)}
    assert cache == {
        "past_conv.0": state,
        "past_key_values.1.key": growing,
        "past_key_values.1.value": growing,
        "past_conv.2": state,
        "past_key_values.3.key": growing,
        "past_key_values.3.value": growing,
    }
    assert [past_of(name) for name in described.outputs if is_present(name)] == list(cache)
    assert described.outputs["present_conv.2"].axes == state
    assert run(tmp_path / "onnx").num_layers == 4


def test_a_layer_with_both_keeps_states_beside_keys_and_values(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "falcon_h1", num_hidden_layers=2)
    described = describe_graph(build(open_checkpoint(folder), tmp_path / "onnx").graph)
    growing = ("batch_size", 2, "past_sequence_length", 8)
    assert {name: port.axes for name, port in described.inputs.items() if is_past(name) and ".1" in name} == {
        "past_key_values.1.key": growing,
        "past_key_values.1.value": growing,
        "past_conv.1": ("batch_size", 56, 4),
        "past_ssm.1": ("batch_size", 2, 6, 16),
    }
    assert run(tmp_path / "onnx").num_layers == 2


FORMS: dict[str, dict[str, Any]] = {
    "a gate without a norm": {"mamba_rms_norm": False},
    "the gate after the norm": {"mamba_rms_norm": True, "mamba_norm_before_gate": True},
    "the gate before the norm": {"mamba_rms_norm": True, "mamba_norm_before_gate": False},
    "no biases": {
        "mamba_conv_bias": False,
        "mamba_proj_bias": False,
        "projectors_bias": False,
        "attention_bias": False,
    },
    "multipliers of one": {"key_multiplier": 1.0, "ssm_multipliers": [1.0] * 5, "ssm_in_multiplier": 1.0},
    "the width that follows from the model's": {"mamba_d_ssm": None, "mamba_d_head": "auto"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_state_space_mixer_agrees(form: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "falcon_h1", **FORMS[form])
    save_tiny_tokenizer(folder)
    for operators in Operators:
        export(folder, tmp_path / operators, ExportOptions(operators=operators))
        assert validate(tmp_path / operators, ValidateOptions(threads=1)).holds


def test_multipliers_of_one_take_no_node(tmp_path: Path) -> None:
    ones = {name: 1.0 for name in find_architecture("falcon_h1").defaults if name.endswith("multiplier")}
    lists = {"ssm_multipliers": [1.0] * 5, "mlp_multipliers": [1.0] * 2}
    folder = save_tiny_model(tmp_path / "checkpoint", "falcon_h1", **ones, **lists)
    model = onnx.load(build(open_checkpoint(folder), tmp_path / "onnx").graph, load_external_data=False)
    assert not [node.name for node in model.graph.node if node.name.endswith((".multiplied", ".input", ".scaled"))]


@pytest.mark.parametrize("name", ["past_key_values.3.key", "past_key_values.0.encoder.value", "past_conv.12"])
def test_what_is_returned_is_told_by_what_is_taken(name: str) -> None:
    assert is_past(name)
    assert not is_present(name)
    assert is_present(present_of(name))
    assert past_of(present_of(name)) == name


def test_other_inputs_are_none_of_the_cache() -> None:
    assert not any(map(is_past, ("past_sequence_length", "input_ids", "past.0.key", "position_ids")))
    assert past_name(CacheTensor(3, "conv", (8, 3))) == "past_conv.3"
    assert past_name(CacheTensor(3, "key", (2, None, 8))) == "past_key_values.3.key"


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize("model_type", KINDS)
def test_a_cache_can_be_continued_twice_unless_it_was_reserved(
    model_type: str, operators: Operators, tmp_path: Path
) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", model_type)
    build(open_checkpoint(checkpoint), tmp_path / "onnx", operators=operators)
    decoder = run(tmp_path / "onnx", threads=1)
    assert isinstance(decoder, GraphDecoder)

    def step(token: int, past: Any, length: int) -> tuple[Any, Any]:
        return decoder.forward(np.array([[token]]), np.ones((1, length), np.int64), np.array([[length - 1]]), past)

    tokens = np.array([[5, 6, 7, 8, 9]])
    _, past = decoder.forward(tokens, np.ones((1, 5), np.int64), np.arange(5)[None])
    first, _ = step(11, past, 6)
    other, _ = step(12, past, 6)
    again, _ = step(11, past, 6)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(again, first)
    # the same from a cache that is filled in place
    _, filled = decoder.forward(tokens, np.ones((1, 5), np.int64), np.arange(5)[None], decoder.reserve(1, 8))
    np.testing.assert_array_equal(step(11, filled, 6)[0], first)


@pytest.mark.parametrize("operators", Operators)
def test_projections_of_mixers_are_quantized_too(operators: Operators, lfm2: Path, tmp_path: Path) -> None:
    quantization = Quantization(WeightFormat.INT4, 16)
    graph = build(open_checkpoint(lfm2), tmp_path / "onnx", operators=operators, quantization=quantization).graph
    mixers = {name for name in quantized_names(graph) if ".conv." in name}
    assert mixers == {f"model.layers.{layer}.conv.{part}_proj.weight" for layer in (0, 2) for part in ("in", "out")}


@pytest.mark.parametrize("operators", Operators)
def test_packed_projections_keep_their_multipliers(operators: Operators, tmp_path: Path) -> None:
    # heads of 32 are turned by the runtime's operator, so that queries, keys and values can be packed
    folder = save_tiny_model(tmp_path / "checkpoint", "falcon_h1", head_dim=32)
    save_tiny_tokenizer(folder)
    export(folder, tmp_path / "out", ExportOptions(operators=operators, weights=WeightFormat.INT4, block_size=16))
    assert validate(tmp_path / "out", ValidateOptions(threads=1)).holds
    graph = onnx.load(tmp_path / "out/onnx/model.onnx", load_external_data=False).graph
    packed = [node.name for node in graph.node if node.name.endswith("queries_keys_values.multiplied")]
    assert len(packed) == (3 if operators is Operators.ONNXRUNTIME else 0)
    mixers = {name for name in quantized_names(tmp_path / "out/onnx/model.onnx") if ".mamba." in name}
    assert mixers == {f"model.layers.{layer}.mamba.{part}_proj.weight" for layer in range(3) for part in ("in", "out")}


def test_modules_are_told_by_the_names_of_values(lfm2: Path, tmp_path: Path) -> None:
    model = onnx.load(build(open_checkpoint(lfm2), tmp_path / "onnx").graph, load_external_data=False)
    modules = ["model.layers.2.conv", "model.layers.2.conv.conv", "model.layers.2.conv.in_proj"]
    found = [tap.module for tap in find_taps(model, modules) if tap.module in modules]
    assert found == ["model.layers.2.conv.in_proj"]


@pytest.mark.slow
def test_the_genai_builders_graph_keeps_fewer_tokens_and_holds(lfm2: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    plain = save_tiny_model(tmp_path / "plain", "lfm2", head_dim=16, conv_bias=False, **MIXED)
    save_tiny_tokenizer(plain)
    subprocess.run([*builder, "-m", plain, "-o", tmp_path / "genai"], check=True, capture_output=True)
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps([{"name": "one text", "prompt_lengths": [9], "decode_steps": 3}]))
    assert compare_third_party(tmp_path / "genai/model.onnx", plain, ValidateOptions(cases=cases)).holds


def test_a_graph_with_states_is_one_of_others_too(lfm2: Path, tmp_path: Path) -> None:
    build(open_checkpoint(lfm2), tmp_path / "onnx")
    assert compare_third_party(tmp_path / "onnx", lfm2, ValidateOptions(explain=True)).holds
    kinds = ["conv", "conv", "conv", "full_attention"]
    other = save_tiny_model(tmp_path / "other", "lfm2", head_dim=16, **{**MIXED, "layer_types": kinds})
    with pytest.raises(RequestError, match="lacks the state of the convolution of layer 1"):
        compare_third_party(tmp_path / "onnx", other)


def test_onnxruntime_genai_has_one_number_of_key_value_heads_beside_states(lfm2: Path, tmp_path: Path) -> None:
    widths = (LayerWidths(0, 0, 40), LayerWidths(4, 2, 40), LayerWidths(0, 0, 7), LayerWidths(2, 1, 40))
    checkpoint, _ = uneven(tmp_path, "lfm2", MIXED, widths)
    assert "different numbers of key/value heads" in str(cannot_describe(checkpoint))
    assert not (build(checkpoint, tmp_path / "onnx").folder / "genai_config.json").exists()
    assert cannot_describe(replace(checkpoint, widths=(widths[0], widths[1], widths[2], widths[1]))) is None
    assert [tensor.axes for tensor in cache_tensors(checkpoint.config, widths)][-1] == (1, None, 8)


def refuse(to: Format) -> Callable[[Path], None]:
    def ask(checkpoint: Path) -> None:
        export(checkpoint, checkpoint.parent / "refused", ExportOptions(to=to))

    return ask


def refuse_bundle(checkpoint: Path) -> None:
    export(checkpoint, checkpoint.parent / "out", overwrite=True)
    bundle(checkpoint.parent / "out", BundleOptions())


def refuse_draft(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    prepare_pair(opened, opened, DraftOptions())


def refuse_tracing(checkpoint: Path) -> None:
    export(checkpoint, checkpoint.parent / "refused", ExportOptions(via=Via.TRACE))


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an engine": (refuse(Format.TENSORRT), "what runs engines here keeps only keys and values"),
    "a program": (refuse(Format.EXECUTORCH), "which traced graphs have no inputs for"),
    "a GGUF file": (refuse(Format.GGUF), "its query heads fill the hidden size, and here they do not"),
    "tracing": (refuse_tracing, "which traced graphs have no inputs for(?s:.*)without --via trace"),
    "a bundle": (refuse_bundle, "what a bundle runs on a device keeps only keys and values"),
    "a draft": (refuse_draft, "States cannot be taken back to the last token that was accepted"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_knows_only_keys_and_values_refuses_states(case: str, lfm2: Path) -> None:
    ask, message = REFUSALS[case]
    with pytest.raises(AmpExportError, match=message):
        ask(lfm2)


def test_steps_that_are_limited_are_not_built(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "granitemoehybrid", time_step_limit=[0.0, 0.5])
    assert "keeps to it in prompts, but not in further tokens" in str(can_build(open_checkpoint(folder).config))


def test_granite_s_attention_may_do_without_positions(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "granitemoehybrid", position_embedding_type=None)
    save_tiny_tokenizer(folder)
    for operators in Operators:
        export(folder, tmp_path / operators, ExportOptions(operators=operators))
        assert validate(tmp_path / operators, ValidateOptions(threads=1)).holds
